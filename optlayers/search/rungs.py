"""Rungs: the numbers of questions at which a layer set is looked at, and what becomes of it there.

`advance` is the second of the two pure functions that decide everything in a study; `plan`
(`planner.py`) is the first. Workers, simulations and benchmarks call these two.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property

from optuna.trial import TrialState

from optlayers.layerset import LayerSet
from optlayers.search.proposal import Goal
from optlayers.trials import keys
from optlayers.trials.answers import Answers, encode_answers
from optlayers.trials.record import Halves, Record
from optlayers.trials.statistics import FloatArray, IntArray, StratifiedScore

# A race begins with these parts of the fast questions, as long as so many are left.
_PARTS, _LEAST = (4, 2), 12


def rungs(n_fast: int, n_full: int) -> list[int]:
    """Numbers of questions after which a race is looked at: n_fast / 4, doubled, ..., n_full.

    n_fast itself is a rung, and the first one where a quarter or a half of it is too few.
    The last doubling is kept even where it leaves less than half of itself to n_full.
    """
    fast = max(1, min(n_fast, n_full))
    steps = [fast // part for part in _PARTS if fast // part >= _LEAST]
    step = fast
    while step < n_full:
        steps.append(step)
        step *= 2
    return [*steps, n_full]


@dataclass(frozen=True, eq=False)
class Rungs:
    """The rungs of a study, and how answers are scored there.

    strata: int [n_full], the subject of each question; weights: float [subjects] (None: the
    subjects' shares of the questions).
    """

    n_fast: int
    n_full: int
    strata: IntArray
    weights: FloatArray | None = None

    @cached_property
    def steps(self) -> list[int]:
        """The rungs, ascending; the last is `n_full`."""
        return rungs(self.n_fast, self.n_full)

    @cached_property
    def score(self) -> StratifiedScore:
        """The score of any prefix of the questions."""
        return StratifiedScore(strata=self.strata, weights=self.weights)

    def at(
        self, record: Record, answers: Answers, inherited: int, halves: Mapping[int, Halves]
    ) -> Record:
        """The record of a running trial whose set has answered the first n questions.

        answers: [n]. inherited: how many of them earlier trials evaluated. halves: see
        `logprobs.note_rung`.
        """
        n, interval = len(answers), self.score.interval(answers)
        return replace(
            record,
            questions=n,
            packed_answers=encode_answers(answers),
            evaluated=n - inherited,
            halves=halves,
            score=interval.score,
            ci_low=interval.ci_low,
            ci_high=interval.ci_high,
            intermediate={**record.intermediate, n: interval.score},
        )

    def next(self, goal: str, answered: int) -> int:
        """The rung up to which a set with so many answers is evaluated next."""
        if goal == Goal.full and answered >= self.steps[0]:
            return self.n_full
        return next(step for step in self.steps if step > answered)


def by_rung(
    cohort: Sequence[Record], questions: Rungs
) -> list[tuple[tuple[int, int], list[Record]]]:
    """Records that go on, grouped by the questions that they answer next: (start, stop)."""
    groups: dict[tuple[int, int], list[Record]] = {}
    for record in cohort:
        start = record.questions or 0
        groups.setdefault((start, questions.next(record.goal, start)), []).append(record)
    return sorted(groups.items())


def most_answers(records: Iterable[Record], wanted: Collection[LayerSet]) -> dict[LayerSet, Record]:
    """Of each wanted layer set, the record that stores most answers, where there is one."""
    best: dict[LayerSet, Record] = {}
    for record in records:
        if record.packed_answers and record.layers in wanted:
            known = best.get(record.layers)
            if known is None or (record.questions or 0) > (known.questions or 0):
                best[record.layers] = record
    return best


class Outcome(Enum):
    """What becomes of a layer set at a rung."""

    CONTINUE = "continue"  # to the next rung, in the same trial
    PAUSE = "pause"  # the trial ends, pruned; the set may be proposed again
    PRUNE = "prune"  # the trial ends, pruned: the pruner found it beaten
    COMPLETE = "complete"  # every question is answered


def conclude(record: Record, outcome: Outcome) -> Record:
    """The record of a running trial once its outcome at a rung is known."""
    if outcome is Outcome.CONTINUE:
        return record
    if outcome is Outcome.COMPLETE:
        return replace(record, state=TrialState.COMPLETE, fidelity="full")
    reason = keys.REASON_BEATEN if outcome is Outcome.PRUNE else ""
    return replace(record, state=TrialState.PRUNED, fidelity="fast", reason=reason)


# The candidates that a pruner ends, by trial number: of candidates and all records of a study.
Prune = Callable[[Sequence[Record], Sequence[Record]], set[int]]


def advance(
    cohort: Sequence[Record], records: Sequence[Record], questions: Rungs, prune: Prune
) -> dict[int, Outcome]:
    """What becomes of each layer set of a cohort at its rung, by trial number.

    cohort: running trials with the answers and score at their rung; `evaluated` counts the
    questions that the trial itself paid for. records: all records of the study, the cohort's
    included, so that a cohort races against itself too.
    """
    outcomes: dict[int, Outcome] = {}
    racing: list[Record] = []
    for record in cohort:
        answered = record.questions or 0
        if answered == questions.n_full:
            outcomes[record.number] = Outcome.COMPLETE
        elif record.goal == Goal.fast and answered >= questions.n_fast:
            outcomes[record.number] = Outcome.PAUSE
        elif record.goal == Goal.full or (record.goal == Goal.step and not record.evaluated):
            # A resumed set had its look at this rung before it paused.
            outcomes[record.number] = Outcome.CONTINUE
        else:
            racing.append(record)
    beaten = prune(racing, records) if racing else set()
    for record in racing:
        if record.number in beaten:
            outcomes[record.number] = Outcome.PRUNE
        elif record.goal == Goal.step:
            outcomes[record.number] = Outcome.PAUSE
        else:
            outcomes[record.number] = Outcome.CONTINUE
    return outcomes
