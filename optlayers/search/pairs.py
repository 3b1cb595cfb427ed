"""Proposals that look for pairs of layers that are worth more together than apart.

A search that follows the best sets rarely tries two layers that only help together. The longer
nothing better is found, the more proposals look for pairs: sets that contain many pairs not yet
evaluated together (a hundred sets of four cover all pairs of 32 layers), and the best part of the
best set plus a pair with a high or uncertain synergy under the model.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from functools import cached_property

import numpy as np

from optlayers.layerset import LayerSet, LayerSpace, SeenSets
from optlayers.search.individual import Individual
from optlayers.search.surrogate import Surrogate, indicators_of
from optlayers.trials.statistics import FloatArray

# Generations without improvement after which pairs are tried, and after which they get their
# largest share of the proposals.
IDLE_FROM, IDLE_MOST = 0.5, 3.0
LARGEST_SHARE = 0.5


def pair_share(individuals: Sequence[Individual], place: int, population_size: int) -> float:
    """The share of proposals that look for pairs, 0 to `LARGEST_SHARE`.

    place: the number of the next proposal.
    """
    bred = [i for i in individuals if i.generation >= 0]
    if not bred:
        return 0.0
    best = max(bred, key=lambda i: i.fitness)
    idle = place / population_size - (best.generation + 1)
    return LARGEST_SHARE * float(np.clip((idle - IDLE_FROM) / (IDLE_MOST - IDLE_FROM), 0.0, 1.0))


class PairSets:
    """Draws sets that test pairs: alternately new pairs and pairs that the model expects most of.

    Draws nothing if sets have at most one layer.
    """

    def __init__(
        self,
        space: LayerSpace,
        model: Surrogate,
        best: LayerSet,
        held: Collection[tuple[int, ...]],
    ) -> None:
        self._space, self._model = space, model
        origin = np.array([space.layer_of(i) for i in range(space.n_choices)])
        # Two choices of the same layer cannot be combined.
        self._same = origin[:, None] == origin
        inside = indicators_of(held, space.n_choices)
        self._new = (inside.T @ inside == 0.0) & ~self._same
        # The best part of the best set that leaves room for two more layers.
        size = max(0, space.max_layers - 2)
        cores = [LayerSet(c) for c in itertools.combinations(best.indices, min(size, len(best)))]
        self._core = cores[int(np.argmax(model.mean(cores)))]

    @cached_property
    def _synergies(self) -> tuple[FloatArray, FloatArray]:
        return self._model.synergies(self._core)

    def draw(self, count: int, taken: SeenSets, rng: np.random.Generator) -> list[LayerSet]:
        """At most `count` distinct sets of the budget that are not in `taken`."""
        found: list[LayerSet] = []
        if self._space.max_layers < 2:
            return found
        busy = set(taken)
        for turn in range(count):
            layers = self.covering(rng) if turn % 2 else None
            if layers is None or layers.indices in busy:
                layers = self.together(busy, rng)
            if layers is not None:
                found.append(layers)
                busy.add(layers.indices)
        return found

    def covering(self, rng: np.random.Generator) -> LayerSet | None:
        """A set of maximum size with many new pairs, which then count as seen; None if none."""
        new = self._new
        pairs = np.argwhere(np.triu(new))
        if not len(pairs):
            return None
        chosen = pairs[int(rng.integers(len(pairs)))].tolist()
        while len(chosen) < self._space.max_layers:
            gain = new[chosen].sum(axis=0) + rng.random(len(new))
            gain[self._same[chosen].any(axis=0)] = -1.0
            chosen.append(int(gain.argmax()))
        index = np.array(chosen)
        new[index[:, None], index] = False
        return LayerSet(tuple(chosen))

    def together(self, taken: SeenSets, rng: np.random.Generator) -> LayerSet | None:
        """The best part of the best set plus the best pair under a draw from the posterior of the
        pair synergies (Thompson 1933); None if all such sets are taken."""
        mean, deviation = self._synergies
        draws = mean + deviation * rng.standard_normal(mean.shape)
        inside = self._same[list(self._core)].any(axis=0)
        barred = self._same | inside | inside[:, None] | np.tri(len(mean), dtype=bool)
        draws[barred] = -np.inf
        for flat in np.argsort(-draws, axis=None, kind="stable"):
            i, j = divmod(int(flat), len(draws))
            if barred[i, j]:
                break
            layers = LayerSet((*self._core, i, j))
            if layers.indices not in taken and layers in self._space:
                return layers
        return None
