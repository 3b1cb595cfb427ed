"""Operators: crossover, repair to the budget, and pattern-guided, size-aware mutation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search.guide import Guide
from optlayers.search.patterns import Pattern

Crossover = Callable[[LayerSet, LayerSet, np.random.Generator], LayerSet]
Mutation = Callable[[LayerSet, LayerSpace, Guide, np.random.Generator], LayerSet]

ADD, SWAP, REMOVE = "add", "swap", "remove"


def uniform_crossover(a: LayerSet, b: LayerSet, rng: np.random.Generator) -> LayerSet:
    """Each layer from a or b with equal chance: what both hold stays (Syswerda 1989)."""
    both = set(a) & set(b)
    either = sorted(set(a) ^ set(b))
    kept = [
        layer for layer, coin in zip(either, rng.random(len(either)), strict=True) if coin < 0.5
    ]
    return LayerSet((*both, *kept))


def repair(layers: LayerSet, space: LayerSpace, guide: Guide, rng: np.random.Generator) -> LayerSet:
    """The set with layers dropped or added until the budget holds, and no layer twice."""
    layers = _settle(layers, space, rng)
    while len(layers) > space.max_layers:
        layers = remove_layer(layers, guide, rng, guided=rng.random() < guide.probability)
    while len(layers) < space.min_layers:
        layers = add_layer(layers, space, rng)
    return layers


def _settle(layers: LayerSet, space: LayerSpace, rng: np.random.Generator) -> LayerSet:
    """The set with one choice, at random, of each layer that has several."""
    if space.is_sound(layers):
        return layers
    choices = rng.permutation(layers.indices).tolist()
    return LayerSet(tuple({space.layer_of(i): i for i in choices}.values()))


def mutation_odds(size: int, space: LayerSpace) -> dict[str, float]:
    """Chance of each kind of mutation for a set of that size (sums to 1).

    At the minimum add 70, swap 30 %; between swap 40, add 30, remove 30 %; at the maximum swap
    70, remove 30 %. What the budget or the model rules out passes its chance to the others.
    """
    if space.min_layers == space.max_layers:
        odds = {SWAP: 1.0}
    elif size <= space.min_layers:
        odds = {ADD: 0.7, SWAP: 0.3}
    elif size < space.max_layers:
        odds = {SWAP: 0.4, ADD: 0.3, REMOVE: 0.3}
    else:
        odds = {SWAP: 0.7, REMOVE: 0.3}
    if size == 0 or (size == space.n_layers and space.n_donors == 1):
        odds.pop(SWAP, None)
    total = sum(odds.values())
    return {kind: chance / total for kind, chance in odds.items()}


def mutate(layers: LayerSet, space: LayerSpace, guide: Guide, rng: np.random.Generator) -> LayerSet:
    """One add, swap or remove within the budget, guided with the guide's probability.

    A guided add completes a pattern that the set holds in part (all missing layers at once),
    or brings in a whole one; a guided swap plants a whole pattern for the weakest layers; a
    guided remove drops the weakest layer.
    """
    odds = mutation_odds(len(layers), space)
    if not odds:
        return layers
    kind = str(rng.choice(list(odds), p=list(odds.values())))
    guided = bool(rng.random() < guide.probability)
    if kind == REMOVE:
        return remove_layer(layers, guide, rng, guided=guided)
    if kind == ADD:
        grown = complete_pattern(layers, space, guide, rng) if guided else None
        return grown or add_layer(layers, space, rng)
    planted = plant_pattern(layers, space, guide, rng) if guided else None
    if planted is not None:
        return planted
    return add_layer(remove_layer(layers, guide, rng, guided=guided), space, rng, barred=layers)


def add_layer(
    layers: LayerSet,
    space: LayerSpace,
    rng: np.random.Generator,
    barred: LayerSet | None = None,
) -> LayerSet:
    """One random layer more, not one of `layers` nor a choice of `barred`."""
    free = [i for i in space.free(layers) if not barred or i not in barred.indices]
    return LayerSet((*layers, free[int(rng.integers(len(free)))])) if free else layers


def remove_layer(
    layers: LayerSet, guide: Guide, rng: np.random.Generator, *, guided: bool
) -> LayerSet:
    """One layer less: the weakest where guided, else a random one."""
    if guided and guide.strengths:
        gone = min(layers, key=lambda i: (guide.strengths[i], i))
    else:
        gone = layers.indices[int(rng.integers(len(layers)))]
    return LayerSet(tuple(i for i in layers if i != gone))


def complete_pattern(
    layers: LayerSet, space: LayerSpace, guide: Guide, rng: np.random.Generator
) -> LayerSet | None:
    """The set and the missing layers of a pattern that fits; None where none fits.

    Patterns of which more is present are likelier: weight = quality x (1 + layers present).
    """
    held = set(layers)
    room = space.max_layers - len(layers)
    fitting = [p for p in guide.patterns if 0 < len(set(p.layers) - held) <= room]
    weights = [p.quality * (1 + len(held & set(p.layers))) for p in fitting]
    chosen = _draw(fitting, weights, rng)
    return None if chosen is None else space.joined(layers, chosen.layers)


def plant_pattern(
    layers: LayerSet, space: LayerSpace, guide: Guide, rng: np.random.Generator
) -> LayerSet | None:
    """The set with a whole pattern in place of its weakest other layers; None where none fits.

    The size stays, unless the pattern alone is larger.
    """
    held = set(layers)
    fitting = [
        p for p in guide.patterns if set(p.layers) - held and len(p.layers) <= space.max_layers
    ]
    chosen = _draw(fitting, [p.quality for p in fitting], rng)
    if chosen is None:
        return None
    planted = space.origins(chosen.layers)
    others = [i for i in layers if space.layer_of(i) not in planted]
    if guide.strengths:
        others.sort(key=lambda i: (-guide.strengths[i], i))
    kept = others[: max(0, len(layers) - len(chosen.layers))]
    return LayerSet((*chosen.layers, *kept))


def _draw(
    patterns: list[Pattern], weights: list[float], rng: np.random.Generator
) -> Pattern | None:
    total = sum(weights)
    if not patterns:
        return None
    odds = [w / total for w in weights] if total > 0 else None
    return patterns[int(rng.choice(len(patterns), p=odds))]
