"""The layer sets of the first generation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optlayers.layerset import LayerSet, LayerSpace, SeenSets

KNOWN_SHARE = 0.1
SCORED_SHARE = 0.4
_TRIES = 50


def initial_set(
    slot: int,
    rng: np.random.Generator,
    *,
    space: LayerSpace,
    seen: SeenSets,
    population_size: int,
    known_sets: Sequence[LayerSet] = (),
    single_layer_scores: Sequence[float] | None = None,
) -> LayerSet | None:
    """The layer set at position `slot` of the first generation; None if all sets are seen.

    The first 10 % of positions take known good sets, the next 40 % sets drawn by single-layer
    scores, the rest random sets. If a source has nothing unseen, the next one is used.
    """
    place = slot / population_size
    if place < KNOWN_SHARE:
        for layers in known_sets:
            if layers in space and layers.indices not in seen:
                return layers
    if place < KNOWN_SHARE + SCORED_SHARE and single_layer_scores is not None:
        for _ in range(_TRIES):
            layers = scored_set(rng, space, single_layer_scores)
            if layers.indices not in seen:
                return layers
    return space.random_unseen(rng, seen)


def favoured_size(rng: np.random.Generator, space: LayerSpace) -> int:
    """One of the three largest sizes: 40 % the largest, 40 % the next, 20 % the third.

    Where the budget has fewer sizes, in the same proportions.
    """
    sizes = [s for s in range(space.max_layers, space.max_layers - 3, -1) if s >= space.min_layers]
    # The empty set has no layer to choose by its score.
    sizes = [s for s in sizes if s > 0] or [space.max_layers]
    odds = np.array([0.4, 0.4, 0.2][: len(sizes)])
    return sizes[int(rng.choice(len(sizes), p=odds / odds.sum()))]


def scored_set(
    rng: np.random.Generator, space: LayerSpace, single_layer_scores: Sequence[float]
) -> LayerSet:
    """A set of a favoured size; its layers are drawn without replacement, weight = score squared.

    single_layer_scores: float [choices].
    """
    weights = np.square(np.maximum(np.asarray(single_layer_scores, np.float64), 0.0))
    # A layer with score 0 can still be drawn, with a tiny chance.
    weights = weights + max(float(weights.max()), 1.0) * 1e-9
    size = favoured_size(rng, space)
    if space.n_donors > 1:
        # Draw an order of all choices; the first choice of each layer counts.
        order = rng.choice(
            space.n_choices, space.n_choices, replace=False, p=weights / weights.sum()
        )
        first = {space.layer_of(i): i for i in reversed(order.tolist())}
        rank = {choice: place for place, choice in enumerate(order.tolist())}
        return LayerSet(tuple(sorted(first.values(), key=rank.__getitem__)[:size]))
    chosen = rng.choice(space.n_layers, size=size, replace=False, p=weights / weights.sum())
    return LayerSet(tuple(chosen.tolist()))
