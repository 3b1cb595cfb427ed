"""Patience: whether the last generations have found anything better."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from optlayers.layerset import LayerSpace
from optlayers.search.history import EXPLORED
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
    explored: Sequence[Record], *, population_size: int, patience: int, maximise: bool = True
) -> bool:
    """Whether the last `patience` generations found no better score at the first rung.

    Scores at the first rung all rest on the same questions and never change, so later trials cannot
    change the answer.
    """
    sign = 1.0 if maximise else -1.0
    scores = [sign * (r.first_score if r.first_score is not None else 0.0) for r in explored]
    complete = len(scores) // population_size
    if complete <= patience:
        return False
    until = (complete - patience) * population_size
    return max(scores[until : complete * population_size]) <= max(scores[:until])
