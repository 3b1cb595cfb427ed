"""The course of a study on a landscape: what one worker would evaluate, without models or database.

Plan, sampler, pruner, rungs and cohorts are those of the package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from optuna.trial import TrialState

from optlayers.config.study import StudyDefinition
from optlayers.layerset import LayerSet
from optlayers.search import RacingPruner, plan, pruner_for, rungs, sampler_for
from optlayers.search.proposal import Goal, Phase
from optlayers.trials import keys
from optlayers.trials.record import (
    Record,
    encode_answers,
)
from optlayers.trials.statistics import StratifiedScore
from optlayers.workers.worker import COHORT, EVERYTHING, LISTED

ROOT = Path(__file__).resolve().parents[2]


class Answering(Protocol):
    """What a landscape says: its shape, and the answers of a layer set."""

    n_layers: int
    n_fast: int
    strata: NDArray[np.int64]

    @property
    def n_full(self) -> int:
        """Number of questions."""
        ...

    def of(self, layers: LayerSet, stop: int) -> NDArray[np.bool_]:
        """Right or wrong [stop] of a set on the first questions."""
        ...


def follow(
    definition: StudyDefinition,
    known: Answering,
    pay: Callable[[Sequence[LayerSet], int, Phase], object],
    seed: int | None = None,
    weights: NDArray[np.float64] | None = None,
) -> list[Record]:
    """Run the study to its end, or until `pay(sets, questions, phase)` raises; its records."""
    sampler = sampler_for(definition, known.n_layers, seed)
    pruner = pruner_for(definition)
    assert isinstance(pruner, RacingPruner)
    scorer = StratifiedScore(strata=known.strata, weights=weights)
    steps = rungs(known.n_fast, known.n_full)
    records: list[Record] = []
    while True:
        found = plan(definition, known.n_layers, records, sampler, COHORT)
        if found.phase is Phase.done:
            return records
        proposals = found.proposals
        if found.phase is not Phase.explore:
            found = plan(definition, known.n_layers, records, sampler, EVERYTHING)
            proposals = found.proposals[: LISTED * COHORT]
        first = len(records)
        inherited: dict[int, int] = {}
        for proposal in proposals:
            earlier = [r for r in records if r.layers == proposal.layers]
            last = max(earlier, key=lambda r: r.questions or 0, default=None)
            inherited[len(records)] = (last.questions or 0) if last else 0
            records.append(
                Record(
                    number=len(records),
                    state=TrialState.RUNNING,
                    layers=proposal.layers,
                    phase=proposal.phase.value,
                    goal=proposal.goal.value,
                    generation=proposal.generation,
                    round=proposal.round,
                    questions=last.questions if last else None,
                    packed_answers=last.packed_answers if last else "",
                )
            )
        active = _settle(
            records, range(first, len(records)), known, scorer, pruner, steps, inherited
        )
        while active:
            groups: dict[int, list[int]] = {}
            for number in active:
                groups.setdefault(_next(records[number], steps), []).append(number)
            active = []
            for stop, numbers in sorted(groups.items()):
                pay([records[n].layers for n in numbers], stop, found.phase)
                for n in numbers:
                    answers = known.of(records[n].layers, stop)
                    records[n] = replace(
                        records[n], questions=stop, packed_answers=encode_answers(answers)
                    )
                active += _settle(records, numbers, known, scorer, pruner, steps, inherited)


def _next(record: Record, steps: Sequence[int]) -> int:
    """Number of questions at the next stop, as a worker has it."""
    done = record.questions or 0
    if record.goal == Goal.full and done >= steps[0]:
        return steps[-1]
    return next(step for step in steps if step > done)


def _settle(
    records: list[Record],
    numbers: Sequence[int],
    known: Answering,
    scorer: StratifiedScore,
    pruner: RacingPruner,
    steps: Sequence[int],
    inherited: dict[int, int],
) -> list[int]:
    """Score what has answers, end what is over, and return the numbers of the others."""
    for n in numbers:
        record = records[n]
        if record.answers is not None and record.questions is not None:
            score = scorer.score(record.answers)
            seen = {**record.intermediate, record.questions: score}
            records[n] = replace(record, score=score, intermediate=seen)
    going = []
    for n in numbers:
        record = records[n]
        if record.questions is None or (
            record.goal == Goal.step and record.questions == inherited[n]
        ):
            going.append(n)
        elif record.questions == known.n_full:
            records[n] = replace(record, state=TrialState.COMPLETE, fidelity="full")
        elif record.goal != Goal.full and pruner.judge(
            record,
            [r for r in records if r.number != n],
            n_fast=known.n_fast,
            n_full=known.n_full,
            strata=known.strata,
            weights=scorer.weights,
        ):
            records[n] = replace(
                record, state=TrialState.PRUNED, fidelity="fast", reason=keys.REASON_BEATEN
            )
        elif (record.goal == Goal.step and record.questions > inherited.get(n, 0)) or (
            record.goal == Goal.fast and record.questions >= known.n_fast
        ):
            records[n] = replace(record, state=TrialState.PRUNED, fidelity="fast")
        else:
            going.append(n)
    return going
