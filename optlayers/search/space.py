"""LayerSpace: the layer sets of a budget, how many there are, and random ones among them."""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

from optlayers.errors import InputError
from optlayers.layerset import BASE, ONE, Donors, LayerSet, all_layer_sets, param_name

# Random draws before the sets not yet seen are listed one by one.
_TRIES = 100


# The sets that are not to be drawn again, by their indices: these hash many times faster than
# the values around them.
SeenSets = AbstractSet[tuple[int, ...]]


def search_space(n_layers: int, donors: Donors = ONE) -> dict[str, BaseDistribution]:
    """Distributions of one layer set's parameters: `layer_00` ... in base or donors."""
    return {param_name(i): CategoricalDistribution((BASE, *donors)) for i in range(n_layers)}


class LayerSpace:
    """All sets of `min_layers` to `max_layers` of `n_layers` layers, each from one of the donors.

    Searches draw from `n_choices` choices, a layer of a donor each (`LayerSet`); that no layer is
    chosen twice is looked after here and in `operators`. Raises `InputError` where the budget does
    not fit the model.
    """

    def __init__(
        self, *, n_layers: int, min_layers: int, max_layers: int, n_donors: int = 1
    ) -> None:
        if n_layers < 1:
            raise InputError(f"n_layers is {n_layers}; a model has 1 layer or more")
        if not 0 <= min_layers <= max_layers:
            raise InputError(
                f"layers: min is {min_layers} and max is {max_layers}; expected 0 <= min <= max"
            )
        if max_layers > n_layers:
            raise InputError(
                f"layers: max is {max_layers} and the models have {n_layers} layers; lower max"
            )
        self.n_layers = n_layers
        self.min_layers = min_layers
        self.max_layers = max_layers
        self.n_donors = n_donors
        self.n_choices = n_layers * n_donors
        sizes = range(min_layers, max_layers + 1)
        self.size: int = sum(math.comb(n_layers, k) * n_donors**k for k in sizes)

    def __contains__(self, layers: LayerSet) -> bool:
        return (
            self.min_layers <= len(layers) <= self.max_layers
            and (not layers.indices or layers.indices[-1] < self.n_choices)
            and layers.is_sound(self.n_donors)
        )

    def joined(self, layers: LayerSet, more: LayerSet) -> LayerSet:
        """Both; of a layer that both hold, the choice of `more`."""
        if self.n_donors == 1:
            return LayerSet((*layers, *more))
        taken = more.origins(self.n_donors)
        return LayerSet((*(i for i in layers if i // self.n_donors not in taken), *more))

    def free(self, layers: LayerSet) -> list[int]:
        """The choices whose layers are not in a set."""
        taken = layers.origins(self.n_donors)
        return [i for i in range(self.n_choices) if i // self.n_donors not in taken]

    def neighbours(self, layers: LayerSet) -> list[LayerSet]:
        """All sets of the budget one step away, sorted."""
        return layers.neighbours(self.n_layers, self.min_layers, self.max_layers, self.n_donors)

    def random_size(self, rng: np.random.Generator) -> int:
        """A size of the budget, each alike."""
        return int(rng.integers(self.min_layers, self.max_layers + 1))

    def favoured_size(self, rng: np.random.Generator) -> int:
        """One of the three largest sizes: 40 % the largest, 40 % the next, 20 % the third.

        Sizes 2, 3 and 4 at 20, 40 and 40 % for a budget of at most four; where the budget has
        fewer sizes, in the same proportions.
        """
        sizes = [s for s in range(self.max_layers, self.max_layers - 3, -1) if s >= self.min_layers]
        # The empty set holds no layer that scores could choose.
        sizes = [s for s in sizes if s > 0] or [self.max_layers]
        odds = np.array([0.4, 0.4, 0.2][: len(sizes)])
        return sizes[int(rng.choice(len(sizes), p=odds / odds.sum()))]

    def random(self, rng: np.random.Generator, size: int) -> LayerSet:
        """A random set of that size."""
        found = rng.choice(self.n_layers, size=size, replace=False)
        if self.n_donors > 1:
            found = self.n_donors * found + rng.integers(self.n_donors, size=size)
        return LayerSet(tuple(found.tolist()))

    def random_unseen(self, rng: np.random.Generator, seen: SeenSets) -> LayerSet | None:
        """A random set not in `seen`, its size drawn first; None where all are seen."""
        for _ in range(_TRIES):
            layers = self.random(rng, self.random_size(rng))
            if layers.indices not in seen:
                return layers
        left = [
            layers
            for layers in all_layer_sets(
                self.n_layers, self.min_layers, self.max_layers, self.n_donors
            )
            if layers.indices not in seen
        ]
        return left[int(rng.integers(len(left)))] if left else None
