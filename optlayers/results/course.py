"""The course of a search: the best score against cost, and what each phase took."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from optlayers.layerset import Labels, LayerSpace
from optlayers.search import Phase
from optlayers.trials.record import Record


@dataclass(frozen=True)
class Step:
    """A new best score; cost is in full evaluations (one layer set on all questions)."""

    cost: float
    score: float
    trial: int
    layers: Labels


@dataclass(frozen=True)
class PhaseCost:
    """What one phase took, or the whole search (`all`).

    start, stop: full evaluations of the search before its first and after its last trial. seconds:
    wall time in which at least one of its trials ran.
    """

    phase: str
    start: float
    stop: float
    trials: int
    sets: int
    questions: int
    seconds: float


@dataclass(frozen=True)
class Course:
    """The best score on all questions (full) and on the fast ones against cost, and the phases."""

    full: list[Step]
    fast: list[Step]
    phases: list[PhaseCost]
    total: PhaseCost


def course(
    trials: Sequence[FrozenTrial],
    records: Sequence[Record],
    n_fast: int,
    n_full: int,
    space: LayerSpace,
) -> Course:
    """The course of the evaluated trials, in the order in which they ended."""
    times = {
        t.number: (
            (t.datetime_start or t.datetime_complete).timestamp(),
            t.datetime_complete.timestamp(),
        )
        for t in trials
        if t.datetime_complete is not None
    }
    evaluated = [r for r in records if r.is_evaluated and r.number in times]
    evaluated.sort(key=lambda r: (times[r.number][1], r.number))
    cost = list(
        itertools.accumulate([r.evaluated / max(1, n_full) for r in evaluated], initial=0.0)
    )
    full: list[Step] = []
    fast: list[Step] = []
    by_phase: dict[str, list[int]] = {}
    for place, record in enumerate(evaluated):
        by_phase.setdefault(record.phase or Phase.explore.value, []).append(place)
        score = record.score if record.is_full else None
        for line, new in ((full, score), (fast, record.intermediate.get(n_fast))):
            if new is not None and (not line or new > line[-1].score):
                layers = space.labels(record.layers)
                line.append(Step(cost[place + 1], float(new), record.number, layers))

    def total(name: str, places: Sequence[int]) -> PhaseCost:
        mine = [evaluated[place] for place in places]
        return PhaseCost(
            phase=name,
            start=cost[places[0]] if places else 0.0,
            stop=cost[places[-1] + 1] if places else 0.0,
            trials=len(mine),
            sets=len({r.layers.indices for r in mine}),
            questions=sum(r.evaluated for r in mine),
            seconds=union_length([times[r.number] for r in mine]),
        )

    phases = [total(name, by_phase[name]) for name in Phase if name in by_phase]
    return Course(full, fast, phases, total("all", range(len(evaluated))))


def union_length(intervals: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, until = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, until))
        until = max(until, stop)
    return total
