"""What each layer and each pair of layers adds, with uncertainty, from the surrogate's posterior.

The surrogate says what any layer set scores, as a joint normal distribution; an effect is a
difference of such scores, so it has a mean and an interval. Shapes: L layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optlayers.layerset import LayerSet
from optlayers.search import Record, best_by_layers
from optlayers.search.statistics import Z95
from optlayers.search.surrogate import Observation, Surrogate

# The sets among which a layer's worth in good company is taken.
COMPANY = 20
LEAST = 8

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """A difference of scores, with its 95 % interval; in shares of right answers."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Effects:
    """What layers do, alone and together.

    alone[i]: score of layer i by itself less that of the base. company[i]: what layer i adds to
    the best sets that were found, on average. synergy[i, j]: what i and j add together beyond the
    sum of what each adds alone (NaN on the diagonal); half[i, j]: half its 95 % interval. tried:
    which pairs were ever evaluated together.
    """

    alone: list[Effect]
    company: list[Effect]
    synergy: Matrix
    half: Matrix
    tried: NDArray[np.bool_]

    def pairs(self) -> list[tuple[int, int, Effect]]:
        """All pairs, the most certain synergies and clashes first."""
        found = []
        for i, j in itertools.combinations(range(len(self.alone)), 2):
            mean, half = float(self.synergy[i, j]), float(self.half[i, j])
            found.append((i, j, Effect(mean, mean - half, mean + half)))
        return sorted(found, key=lambda p: -abs(p[2].mean) / max(1e-9, p[2].high - p[2].low))


def effects(records: Sequence[Record], n_layers: int) -> Effects | None:
    """The effects that the trials speak for; None with fewer than a handful of sets."""
    best = [r for r in best_by_layers(records).values() if r.score is not None]
    if len(best) < LEAST or not n_layers:
        return None
    model = Surrogate([_observation(r) for r in best], n_layers)
    singles = [LayerSet.of(i) for i in range(n_layers)]
    couples = list(itertools.combinations(range(n_layers), 2))
    asked = [LayerSet(()), *singles, *[LayerSet.of(i, j) for i, j in couples]]
    mean, covariance = model.predict(asked)
    alone = np.zeros((n_layers, len(asked)))
    alone[:, 0] = -1.0
    alone[np.arange(n_layers), 1 + np.arange(n_layers)] = 1.0
    beyond = np.zeros((len(couples), len(asked)))
    for row, (i, j) in enumerate(couples):
        beyond[row, [0, 1 + n_layers + row]] = 1.0
        beyond[row, [1 + i, 1 + j]] = -1.0
    middle, spread = _contrasts(beyond, mean, covariance)
    synergy, half = (np.full((n_layers, n_layers), np.nan) for _ in range(2))
    for (i, j), value, error in zip(couples, middle, spread, strict=True):
        synergy[i, j] = synergy[j, i] = value
        half[i, j] = half[j, i] = Z95 * error
    tried = np.zeros((n_layers, n_layers), dtype=np.bool_)
    for record in best:
        tried[np.ix_(record.layers.indices, record.layers.indices)] = True
    return Effects(
        alone=_effects(alone, mean, covariance),
        company=_company(model, best, n_layers),
        synergy=synergy,
        half=half,
        tried=tried,
    )


def _observation(record: Record) -> Observation:
    score = float(record.score or 0.0)
    if not record.questions:
        return Observation(record.layers, score)
    share = (score * record.questions + 1.0) / (record.questions + 2.0)
    return Observation(record.layers, score, share * (1.0 - share) / record.questions)


def _contrasts(weights: Matrix, mean: Matrix, covariance: Matrix) -> tuple[Matrix, Matrix]:
    """Means and standard deviations of linear combinations [rows] of the scores."""
    variance = np.einsum("ij,jk,ik->i", weights, covariance, weights, optimize=True)
    return weights @ mean, np.sqrt(np.clip(variance, 0.0, None))


def _effects(weights: Matrix, mean: Matrix, covariance: Matrix) -> list[Effect]:
    middle, spread = _contrasts(weights, mean, covariance)
    return [
        Effect(float(m), float(m - Z95 * s), float(m + Z95 * s))
        for m, s in zip(middle, spread, strict=True)
    ]


def _company(model: Surrogate, best: Sequence[Record], n_layers: int) -> list[Effect]:
    """Of each layer the mean, over the best sets, of the score with it less that without it."""
    good = sorted(best, key=lambda r: (not r.is_full, -(r.score or 0.0)))[:COMPANY]
    index: dict[LayerSet, int] = {}
    terms: list[dict[int, float]] = []
    for layer in range(n_layers):
        mine: dict[int, float] = {}
        for record in good:
            held = set(record.layers.indices)
            for layers, sign in ((held | {layer}, 1.0), (held - {layer}, -1.0)):
                place = index.setdefault(LayerSet(tuple(layers)), len(index))
                mine[place] = mine.get(place, 0.0) + sign / len(good)
        terms.append(mine)
    weights = np.zeros((n_layers, len(index)))
    for layer, mine in enumerate(terms):
        weights[layer, list(mine)] = list(mine.values())
    mean, covariance = model.predict(list(index))
    return _effects(weights, mean, covariance)
