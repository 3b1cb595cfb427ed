"""Surrogate: a Gaussian process on layer sets with main effects, pairs and triples.

The covariance of two sets is a constant plus a variance for each layer, pair and triple that both
contain. This equals Bayesian linear regression on the indicators of layers, pairs and triples,
without computing them (Rasmussen and Williams 2006, section 2.1.2). The variances are chosen by
marginal likelihood on a small grid. Pure numpy; shapes: n observed sets, m asked sets, L layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from optlayers.layerset import LayerSet
from optlayers.search.individual import Individual

FloatArray = NDArray[np.float64]

MOST = 400  # observations used: the best, and an even selection of the rest
TUNED = 150  # observations used to choose the variances
# Variances of main effects, pairs and triples relative to that of the scores; noise factors.
_KERNELS = ((0.5, 0.05, 0.01), (0.5, 0.2, 0.05), (0.25, 0.4, 0.2))
_NOISES = (0.3, 1.0)
_JITTER = 1e-4


def indicators(sets: Sequence[LayerSet], n_layers: int) -> FloatArray:
    """[n, L], 1 where a set holds a layer."""
    return indicators_of([layers.indices for layers in sets], n_layers)


def indicators_of(sets: Collection[tuple[int, ...]], n_layers: int) -> FloatArray:
    """As `indicators`, of sets given as tuples of indices."""
    found = np.zeros((len(sets), n_layers))
    rows = np.repeat(np.arange(len(sets)), [len(indices) for indices in sets])
    found[rows, list(itertools.chain.from_iterable(sets))] = 1.0
    return found


def _shared(a: FloatArray, b: FloatArray, weights: tuple[float, float, float]) -> FloatArray:
    """Covariance [n, m] from the number of layers that two sets share."""
    count = np.arange(a.shape[1] + 1.0)
    pairs = count * (count - 1.0) / 2.0
    triples = pairs * (count - 2.0) / 3.0
    # A table lookup: counts have few values, and the matrices are large.
    worth: FloatArray = weights[0] * count + weights[1] * pairs + weights[2] * triples
    return worth[(a @ b.T).astype(np.intp)]


def _likelihood(
    x: FloatArray,
    y: FloatArray,
    noise: FloatArray,
    kernel: tuple[float, float, float],
    factor: float,
) -> float:
    """Log marginal likelihood, up to a constant (Rasmussen and Williams 2006, equation 2.30)."""
    covariance = 1.0 + _shared(x, x, kernel) + np.diag(factor * noise + _JITTER)
    lower = np.linalg.cholesky(covariance)
    solved = np.linalg.solve(lower, y)
    return -0.5 * float(solved @ solved) - float(np.log(np.diag(lower)).sum())


class Surrogate:
    """The fitted model. Two observations at least; raises `ValueError` with fewer."""

    def __init__(self, individuals: Sequence[Individual], n_layers: int) -> None:
        if len(individuals) < 2:
            raise ValueError(f"{len(individuals)} observations; a model needs 2")
        chosen = _thin(individuals)
        self._n_layers = n_layers
        self._x = indicators([o.layers for o in chosen], n_layers)
        scores = np.array([o.measured for o in chosen])
        self._mean = float(scores.mean())
        self._spread = max(float(scores.std()), 1e-6)
        self._y = (scores - self._mean) / self._spread
        known = [o.variance for o in chosen if o.variance is not None]
        typical = float(np.mean(known)) if known else 0.05 * self._spread**2
        noise = np.array([typical if o.variance is None else o.variance for o in chosen])
        noise = noise / self._spread**2
        few = np.linspace(0, len(chosen) - 1, min(TUNED, len(chosen))).astype(int)
        self._kernel, factor = max(
            ((kernel, factor) for kernel in _KERNELS for factor in _NOISES),
            key=lambda pair: _likelihood(self._x[few], self._y[few], noise[few], *pair),
        )
        shared = 1.0 + _shared(self._x, self._x, self._kernel)
        covariance = shared + np.diag(factor * noise + _JITTER)
        self._inverse = np.linalg.inv(np.linalg.cholesky(covariance))
        self._weights = self._inverse.T @ (self._inverse @ self._y)

    def mean(self, sets: Sequence[LayerSet]) -> FloatArray:
        """Mean [m] of the scores of sets."""
        asked = indicators(sets, self._n_layers)
        cross = 1.0 + _shared(self._x, asked, self._kernel)
        return np.asarray(self._mean + self._spread * (cross.T @ self._weights))

    def predict(self, sets: Sequence[LayerSet]) -> tuple[FloatArray, FloatArray]:
        """Mean [m] of the scores of sets, and their covariance [m, m]."""
        asked = indicators(sets, self._n_layers)
        cross = 1.0 + _shared(self._x, asked, self._kernel)
        half = self._inverse @ cross
        mean = self._mean + self._spread * (cross.T @ self._weights)
        own = 1.0 + _shared(asked, asked, self._kernel)
        return mean, self._spread**2 * (own - half.T @ half)

    def synergies(self, core: LayerSet) -> tuple[FloatArray, FloatArray]:
        """What each pair of choices adds to a set beyond its parts, two arrays [L, L].

        Mean and standard deviation of f(core + i + j) - f(core + i) - f(core + j) + f(core).
        """
        _, pair, triple = self._kernel
        shared = self._x @ indicators([core], self._n_layers)[0]  # [n]
        first, second = np.triu_indices(self._n_layers, 1)
        cross = self._x[:, first] * self._x[:, second] * (pair + triple * shared)[:, None]
        half = self._inverse @ cross
        variance = pair + triple * len(core) - np.square(half).sum(axis=0)
        mean, deviation = np.zeros((2, self._n_layers, self._n_layers))
        mean[first, second] = self._spread * (cross.T @ self._weights)
        deviation[first, second] = self._spread * np.sqrt(np.maximum(variance, 0.0))
        return mean + mean.T, deviation + deviation.T

    def combination(
        self, sets: Sequence[LayerSet], coefficients: FloatArray
    ) -> tuple[float, float]:
        """Mean and standard deviation of sum_m c_m f(set m), with sum_m c_m = 0."""
        asked = indicators(sets, self._n_layers)
        # The constant of the covariance cancels where the coefficients sum to zero.
        cross = _shared(self._x, asked, self._kernel) @ coefficients
        half = self._inverse @ cross
        own = float(coefficients @ _shared(asked, asked, self._kernel) @ coefficients)
        variance = max(0.0, own - float(half @ half))
        return self._spread * float(cross @ self._weights), self._spread * variance**0.5

    def choose(
        self, sets: Sequence[LayerSet], count: int, rng: np.random.Generator
    ) -> list[LayerSet]:
        """`count` distinct sets by Thompson sampling: each is the best under one posterior draw."""
        mean, covariance = self.predict(sets)
        jitter = 1e-9 * max(float(np.trace(covariance)), 1e-9)
        # Not by eigenvectors: rounding rotates those of close eigenvalues, and changes all draws.
        root = np.linalg.cholesky(covariance + jitter * np.eye(len(sets)))
        free = np.ones(len(sets), dtype=bool)
        found = []
        for _ in range(min(count, len(sets))):
            draw = mean + root @ rng.standard_normal(len(sets))
            pick = int(np.argmax(np.where(free, draw, -np.inf)))
            free[pick] = False
            found.append(sets[pick])
        return found


def _thin(individuals: Sequence[Individual]) -> list[Individual]:
    """At most `MOST`: half of them the best, the others spread evenly over time."""
    if len(individuals) <= MOST:
        return list(individuals)
    scores = np.array([o.measured for o in individuals])
    best = np.argpartition(-scores, MOST // 2)[: MOST // 2]
    is_best = np.zeros(len(scores), dtype=bool)
    is_best[best] = True
    rest = np.flatnonzero(~is_best)
    even = rest[np.linspace(0, len(rest) - 1, MOST - len(best)).astype(int)]
    return [individuals[i] for i in np.sort(np.concatenate([best, even]))]
