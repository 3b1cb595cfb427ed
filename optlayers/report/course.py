"""The course of a search: best score against cost, phase by phase, and its generations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial

from optlayers.layerset import ONE, Donors, Labels, LayerSet
from optlayers.search import Phase
from optlayers.trials.record import Record

# The best sets whose layers show what the search has learnt.
ELITE = 20


@dataclass(frozen=True)
class Step:
    """The best score after so much work, in full evaluations (one set on all questions)."""

    cost: float
    score: float
    trial: int
    layers: Labels


@dataclass(frozen=True)
class PhaseCost:
    """One phase: where it lies on the cost axis, and what it took.

    start, stop: full evaluations. seconds: wall time in which any of its trials ran.
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
    """The best score on all, and on the fast, questions against cost, and the phases."""

    full: list[Step] = field(default_factory=list)
    fast: list[Step] = field(default_factory=list)
    phases: list[PhaseCost] = field(default_factory=list)

    @property
    def cost(self) -> float:
        """Full evaluations of the whole search."""
        return max((p.stop for p in self.phases), default=0.0)

    @property
    def seconds(self) -> float:
        """Wall time in which any trial ran."""
        return sum(p.seconds for p in self.phases)

    @property
    def questions(self) -> int:
        """Questions asked, over all layer sets."""
        return sum(p.questions for p in self.phases)


@dataclass(frozen=True)
class Generation:
    """The elite after one generation: what share of the best sets so far holds each choice.

    A choice is a layer, or with several donors a layer of one of them (see `LayerSet`). best: the
    best score so far; pairs: the most frequent pairs of the elite and their counts.
    """

    number: int
    sets: int
    best: float
    share: list[float]
    pairs: list[tuple[Labels, int]]


def course(
    trials: Sequence[FrozenTrial],
    records: Sequence[Record],
    n_fast: int,
    n_full: int,
    donors: Donors = ONE,
) -> Course:
    """The course of the finished trials, in the order in which they ended."""
    ended = {
        t.number: (t.datetime_start or t.datetime_complete, t.datetime_complete)
        for t in trials
        if t.datetime_complete is not None
    }
    order = sorted(
        (r for r in records if r.is_evaluated and r.number in ended),
        key=lambda r: (ended[r.number][1], r.number),
    )
    unit = max(1, n_full)
    cost, best = 0.0, {True: -1.0, False: -1.0}
    lines: dict[bool, list[Step]] = {True: [], False: []}
    where: dict[str, list[float]] = {}
    mine: dict[str, list[Record]] = {}
    for record in order:
        begun = cost
        cost += record.evaluated / unit
        phase = record.phase or Phase.explore.value
        where.setdefault(phase, [begun, cost])[1] = cost
        mine.setdefault(phase, []).append(record)
        # A set comes past the fast questions in one of its trials.
        fast = record.intermediate.get(n_fast)
        for full, score in ((True, record.score), (False, fast)):
            if score is not None and (record.is_full or not full) and score > best[full]:
                best[full] = score
                step = Step(cost, float(score), record.number, record.layers.labels(donors))
                lines[full].append(step)
    phases = [
        PhaseCost(
            phase=phase.value,
            start=where[phase.value][0],
            stop=where[phase.value][1],
            trials=len(mine[phase.value]),
            sets=len({r.layers.indices for r in mine[phase.value]}),
            questions=sum(r.evaluated for r in mine[phase.value]),
            seconds=_covered(
                [
                    (begun.timestamp(), end.timestamp())
                    for begun, end in (ended[r.number] for r in mine[phase.value])
                    if begun is not None and end is not None
                ]
            ),
        )
        for phase in Phase
        if phase.value in where
    ]
    return Course(lines[True], lines[False], phases)


def _covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, until = 0.0, float("-inf")
    for begun, end in sorted(spans):
        total += max(0.0, end - max(begun, until))
        until = max(until, end)
    return total


def generations(
    records: Sequence[Record], n_choices: int, donors: Donors = ONE
) -> list[Generation]:
    """The elite after the probe (number -1) and after each generation of the search."""
    by_number: dict[int, list[Record]] = {}
    begun: set[tuple[int, ...]] = set()
    for record in records:
        # What takes a set further belongs to no generation.
        if not record.is_evaluated or record.layers.indices in begun:
            continue
        begun.add(record.layers.indices)
        if record.phase == Phase.probe:
            by_number.setdefault(-1, []).append(record)
        elif record.phase == Phase.explore:
            by_number.setdefault(record.generation or 0, []).append(record)
    known: dict[tuple[int, ...], Record] = {}
    found = []
    for number in sorted(by_number):
        for record in by_number[number]:
            known[record.layers.indices] = record
        # First scores: the one number that all of them have alike.
        ranked = sorted(known.values(), key=lambda r: -(r.first_score or 0.0))[:ELITE]
        share = [sum(layer in r.layers for r in ranked) / len(ranked) for layer in range(n_choices)]
        counts: dict[tuple[int, int], int] = {}
        for record in ranked:
            held = record.layers.indices
            for a, i in enumerate(held):
                for j in held[a + 1 :]:
                    counts[i, j] = counts.get((i, j), 0) + 1
        top = sorted(counts.items(), key=lambda c: (-c[1], c[0]))[:3]
        pairs = [(LayerSet(pair).labels(donors), count) for pair, count in top]
        best = max(float(r.first_score or 0.0) for r in ranked)
        found.append(Generation(number, len(by_number[number]), best, share, pairs))
    return found
