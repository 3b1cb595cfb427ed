"""The course of a search: the best score against cost, and what each phase took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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
    """What one phase took.

    start, stop: full evaluations of the search when its first trial started and its last one
    ended. seconds: wall time in which at least one of its trials ran.
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

    full: list[Step] = field(default_factory=list)
    fast: list[Step] = field(default_factory=list)
    phases: list[PhaseCost] = field(default_factory=list)

    @property
    def cost(self) -> float:
        """Full evaluations of the whole search."""
        return max((p.stop for p in self.phases), default=0.0)

    @property
    def seconds(self) -> float:
        """Wall time of all phases."""
        return sum(p.seconds for p in self.phases)

    @property
    def questions(self) -> int:
        """Question evaluations, over all layer sets."""
        return sum(p.questions for p in self.phases)


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
    found = Course()
    cost = 0.0
    # Of each phase: cost before and after a trial, and its record.
    by_phase: dict[str, list[tuple[float, float, Record]]] = {}
    for record in sorted(evaluated, key=lambda r: (times[r.number][1], r.number)):
        before, cost = cost, cost + record.evaluated / max(1, n_full)
        phase = record.phase or Phase.explore.value
        by_phase.setdefault(phase, []).append((before, cost, record))
        full = record.score if record.is_full else None
        for line, score in ((found.full, full), (found.fast, record.intermediate.get(n_fast))):
            if score is not None and (not line or score > line[-1].score):
                line.append(Step(cost, float(score), record.number, space.labels(record.layers)))
    for name in (phase.value for phase in Phase if phase.value in by_phase):
        mine = by_phase[name]
        found.phases.append(
            PhaseCost(
                phase=name,
                start=mine[0][0],
                stop=mine[-1][1],
                trials=len(mine),
                sets=len({r.layers.indices for _, _, r in mine}),
                questions=sum(r.evaluated for _, _, r in mine),
                seconds=union_length([times[r.number] for _, _, r in mine]),
            )
        )
    return found


def union_length(intervals: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, until = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, until))
        until = max(until, stop)
    return total
