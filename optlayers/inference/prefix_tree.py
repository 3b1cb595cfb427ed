"""The tree of shared layer prefixes: the layer passes that a cohort of layer sets needs.

Hybrids share the hidden states up to the first layer in which they differ, so a cohort runs along
a tree, depth first. This module is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from optlayers.layerset import LayerSet, LayerSpace

State = TypeVar("State")


def walk(
    layer_sets: Sequence[LayerSet],
    space: LayerSpace,
    state: State,
    run: Callable[[int, int, State], State],
    arrive: Callable[[int, State], None],
) -> None:
    """Run every layer set from `state`, each shared prefix once.

    `run(layer, origin, state)` returns the next state; origin is 0 for the base, 1 for the first
    donor. `arrive(i, state)` gets the last state of `layer_sets[i]`. One state is kept for each
    branch of the current path.
    """
    chosen = [space.origins(layers) for layers in layer_sets]
    _walk(chosen, list(range(len(layer_sets))), 0, space.n_layers, state, run, arrive)


def _walk(
    chosen: Sequence[Mapping[int, int]],
    members: list[int],
    layer: int,
    n_layers: int,
    state: State,
    run: Callable[[int, int, State], State],
    arrive: Callable[[int, State], None],
) -> None:
    while layer < n_layers:
        of_origin: dict[int, list[int]] = {}
        for i in members:
            of_origin.setdefault(chosen[i].get(layer, -1) + 1, []).append(i)
        *first, last = sorted(of_origin)
        for origin in first:
            after = run(layer, origin, state)
            _walk(chosen, of_origin[origin], layer + 1, n_layers, after, run, arrive)
        members = of_origin[last]
        state = run(layer, last, state)
        layer += 1
    for i in members:
        arrive(i, state)


def schedule(layer_sets: Sequence[LayerSet], space: LayerSpace) -> list[tuple[int, int]]:
    """The layer passes that `walk` makes, in order: (layer, origin)."""
    passes: list[tuple[int, int]] = []

    def run(layer: int, origin: int, state: None) -> None:
        passes.append((layer, origin))

    walk(layer_sets, space, None, run, lambda i, state: None)
    return passes


def layer_passes(layer_sets: Sequence[LayerSet], space: LayerSpace) -> int:
    """Number of layer passes that `walk` makes, at most `len(layer_sets) * space.n_layers`."""
    return len(schedule(layer_sets, space))
