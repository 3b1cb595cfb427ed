"""The tree of shared layer prefixes: which layer passes a cohort of layer sets needs.

Two hybrids that agree on their first layers share the hidden states up to the first layer in
which they differ, so a cohort runs along a tree, depth first. This module is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from optlayers.layerset import LayerSet

State = TypeVar("State")


def walk(
    layer_sets: Sequence[LayerSet],
    n_layers: int,
    state: State,
    run: Callable[[int, bool, State], State],
    arrive: Callable[[int, State], None],
) -> None:
    """Run every layer set from `state`, each shared prefix once.

    `run(layer, from_donor, state)` gives the next state; `arrive(i, state)` receives the last
    one of `layer_sets[i]`. States are open one per branch of the current path.
    """
    _walk(layer_sets, list(range(len(layer_sets))), 0, n_layers, state, run, arrive)


def _walk(
    sets: Sequence[LayerSet],
    members: list[int],
    layer: int,
    n_layers: int,
    state: State,
    run: Callable[[int, bool, State], State],
    arrive: Callable[[int, State], None],
) -> None:
    while layer < n_layers:
        donor = [i for i in members if layer in sets[i].indices]
        if donor and len(donor) < len(members):
            base = [i for i in members if layer not in sets[i].indices]
            _walk(sets, base, layer + 1, n_layers, run(layer, False, state), run, arrive)
            members = donor
        state = run(layer, bool(donor), state)
        layer += 1
    for i in members:
        arrive(i, state)


def schedule(layer_sets: Sequence[LayerSet], n_layers: int) -> list[tuple[int, bool]]:
    """The layer passes that `walk` makes, in order: (layer, whether the donor's)."""
    passes: list[tuple[int, bool]] = []

    def run(layer: int, from_donor: bool, state: None) -> None:
        passes.append((layer, from_donor))

    walk(layer_sets, n_layers, None, run, lambda i, state: None)
    return passes


def layer_passes(layer_sets: Sequence[LayerSet], n_layers: int) -> int:
    """Number of layer passes that `walk` makes, at most `len(layer_sets) * n_layers`."""
    return len(schedule(layer_sets, n_layers))
