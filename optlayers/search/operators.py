"""Operators: crossover, repair to the budget, and pattern-guided, size-aware mutation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search.patterns import Pattern

ADD, SWAP, REMOVE = "add", "swap", "remove"
NOTHING = LayerSet(())


def uniform_crossover(a: LayerSet, b: LayerSet, rng: np.random.Generator) -> LayerSet:
    """Each layer from a or b with equal probability; layers of both stay (Syswerda 1989)."""
    both = set(a) & set(b)
    either = sorted(set(a) ^ set(b))
    kept = [
        layer for layer, coin in zip(either, rng.random(len(either)), strict=True) if coin < 0.5
    ]
    return LayerSet((*both, *kept))


def repair(layers: LayerSet, space: LayerSpace, rng: np.random.Generator) -> LayerSet:
    """The set with random layers dropped or added until the budget holds, and no layer twice."""
    choices = rng.permutation(layers.indices).tolist()
    kept = list({space.layer_of(i): i for i in choices}.values())[: space.max_layers]
    layers = LayerSet(tuple(kept))
    while len(layers) < space.min_layers:
        layers = _add(layers, space, rng)
    return layers


def mutation_odds(size: int, space: LayerSpace) -> dict[str, float]:
    """Probability of each kind of mutation for a set of that size (sums to 1).

    At the minimum add 70, swap 30 %; between swap 40, add 30, remove 30 %; at the maximum swap
    70, remove 30 %. If the budget or the model rules out a kind, the others share its probability.
    """
    if space.min_layers == space.max_layers:
        odds = {SWAP: 1.0}
    elif size <= space.min_layers:
        odds = {ADD: 0.7, SWAP: 0.3}
    elif size < space.max_layers:
        odds = {SWAP: 0.4, ADD: 0.3, REMOVE: 0.3}
    else:
        odds = {SWAP: 0.7, REMOVE: 0.3}
    if size in (0, space.n_choices):
        odds.pop(SWAP, None)
    total = sum(odds.values())
    return {kind: chance / total for kind, chance in odds.items()}


def mutate(
    layers: LayerSet,
    space: LayerSpace,
    patterns: Sequence[Pattern],
    rng: np.random.Generator,
    guide_prob: float = 0.3,
) -> LayerSet:
    """One change within the budget.

    With probability `guide_prob` a pattern, drawn by quality, replaces random other layers of the
    set; else one random layer is added, swapped or removed, by `mutation_odds`.
    """
    if rng.random() < guide_prob:
        planted = plant_pattern(layers, space, patterns, rng)
        if planted is not None:
            return planted
    odds = mutation_odds(len(layers), space)
    if not odds:
        return layers
    kind = str(rng.choice(list(odds), p=list(odds.values())))
    if kind == ADD:
        return _add(layers, space, rng)
    gone = layers.indices[int(rng.integers(len(layers)))]
    fewer = LayerSet(tuple(i for i in layers if i != gone))
    return fewer if kind == REMOVE else _add(fewer, space, rng, other_than=layers)


def plant_pattern(
    layers: LayerSet, space: LayerSpace, patterns: Sequence[Pattern], rng: np.random.Generator
) -> LayerSet | None:
    """The set with a whole pattern in place of random other layers; None where none fits.

    The size stays, unless the pattern alone is larger.
    """
    held = set(layers)
    fitting = [p for p in patterns if set(p.layers) - held and len(p.layers) <= space.max_layers]
    if not fitting:
        return None
    total = sum(p.quality for p in fitting)
    odds = [p.quality / total for p in fitting] if total > 0 else None
    chosen = fitting[int(rng.choice(len(fitting), p=odds))].layers
    taken = space.origins(chosen)
    rest = [i for i in rng.permutation(layers.indices).tolist() if space.layer_of(i) not in taken]
    return LayerSet((*chosen, *rest[: max(0, len(layers) - len(chosen))]))


def _add(
    layers: LayerSet, space: LayerSpace, rng: np.random.Generator, other_than: LayerSet = NOTHING
) -> LayerSet:
    """One random layer more, where there is one."""
    free = [i for i in space.free(layers) if i not in other_than]
    return LayerSet((*layers, free[int(rng.integers(len(free)))])) if free else layers
