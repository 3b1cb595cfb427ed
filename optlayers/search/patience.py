"""Patience: whether the last generations have found anything better."""

from __future__ import annotations

from collections.abc import Iterable

from optlayers.layerset import LayerSpace
from optlayers.search.history import EXPLORED, fitness_from, is_search
from optlayers.trials.record import Record


def explored_sets(records: Iterable[Record], space: LayerSpace) -> dict[tuple[int, ...], Record]:
    """The distinct layer sets that count toward generations, in the order of their first trials."""
    least, largest, end = space.min_layers, space.max_layers, (space.n_choices,)
    found: dict[tuple[int, ...], Record] = {}
    for record in records:
        if record.is_evaluated and record.phase in EXPLORED:
            indices = record.layers.indices
            if indices not in found and least <= len(indices) <= largest and indices[-1:] < end:
                found[indices] = record
    return found


def stagnates(
    records: Iterable[Record],
    explored: Iterable[tuple[int, ...]],
    *,
    space: LayerSpace,
    population_size: int,
    patience: int,
    maximise: bool = True,
) -> bool:
    """Whether the last `patience` generations have found no better layer set.

    explored: the sets of `explored_sets`. They are compared by fitness, as parents are. Only trials
    of probe and explore count, so that later phases cannot reopen this one.
    """
    order = list(explored)
    end = len(order) // population_size * population_size
    start = end - patience * population_size
    if start <= 0:
        return False
    fitness = fitness_from(
        (r for r in records if is_search(r)),
        space=space,
        population_size=population_size,
        maximise=maximise,
    )
    return max(fitness[s] for s in order[start:end]) <= max(fitness[s] for s in order[:start])
