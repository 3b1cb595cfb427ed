"""Simulation: a whole study on known answers, without models or a database.

Workers take turns; what they evaluate and what becomes of it is decided by `plan` and `advance`, as
in `optlayers.workers`. One simulated worker evaluates the same layer sets in the same order as a
real one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from optuna.trial import TrialState

from optlayers.config.study import StudyDefinition
from optlayers.errors import InputError
from optlayers.layerset import LayerSet
from optlayers.search import RacingPruner, plan, pruner_for, sampler_for
from optlayers.search.factory import worker_seed
from optlayers.search.logprobs import note_rung
from optlayers.search.planner import COHORT, Plan, recent_workers
from optlayers.search.proposal import Phase
from optlayers.search.rungs import Outcome, Rungs, advance, by_rung, conclude, most_answers
from optlayers.trials import keys
from optlayers.trials.answers import Answers
from optlayers.trials.record import Halves, Record
from optlayers.trials.statistics import FloatArray

Evaluated = Callable[[Sequence[LayerSet], int, int, Phase], object]
Logs = Callable[[LayerSet, int, int], FloatArray | None]


@dataclass
class Simulation:
    """A study whose answers are known beforehand.

    answers: what a layer set answers on the first n questions, [n], or None for a set that fails.
    evaluated: called with the sets, the first and the last question and the phase of each
    evaluation, before its answers are used; what it raises ends the simulation. `records` are the
    trials so far. logs: the log-probabilities of the right choices to the questions from one to
    another, or None where they are not known; fast_weights: as `QuestionOrder.fast_weights`.
    Raises `InputError` for a pruner that reads a database.
    """

    definition: StudyDefinition
    n_layers: int
    questions: Rungs
    answers: Callable[[LayerSet, int], Answers | None]
    evaluated: Evaluated = lambda sets, start, stop, phase: None
    cohort: int = COHORT
    records: list[Record] = field(default_factory=list)
    plans: dict[str, list[Plan]] = field(default_factory=dict)
    logs: Logs = lambda layers, start, stop: None
    fast_weights: FloatArray | None = None

    def __post_init__(self) -> None:
        pruner = pruner_for(self.definition, self.questions.n_fast)
        if isinstance(pruner, RacingPruner):
            self._prune = pruner.on(self.questions)
        elif self.definition.explore.pruner == "none":
            self._prune = lambda candidates, records: set()
        else:
            raise InputError(
                f"explore.pruner is {self.definition.explore.pruner}: a simulation knows racing "
                "and none; use one of these"
            )

    def run(self, workers: int = 1, seed: int = 0) -> list[Record]:
        """Let workers take turns in random order until the study is done; the records."""
        rng = np.random.default_rng(seed)
        active = [self.worker(index) for index in range(workers)]
        while active:
            turn = active[int(rng.integers(len(active)))] if len(active) > 1 else active[0]
            if next(turn, None) is None:
                active.remove(turn)
        return self.records

    def worker(self, index: int = 0, seed: int | None = None) -> Iterator[Phase]:
        """One worker, which pauses after each claim and each evaluation.

        It ends when the study is done. If you stop iterating, its trials stay RUNNING;
        see `requeue`. seed: of its proposals (default: as a real worker of that index).
        """
        name = f"worker {index}"
        own = worker_seed(self.definition, index) if seed is None else seed
        sampler = sampler_for(self.definition, self.n_layers, own)
        plans = self.plans.setdefault(name, [])
        while True:
            waiting = [r.number for r in self.records if r.state == TrialState.WAITING]
            if waiting:
                phase, mine = Phase(self.records[waiting[0]].phase), waiting[: self.cohort]
                for n in mine:
                    self.records[n] = replace(
                        self.records[n], state=TrialState.RUNNING, worker=name
                    )
            else:
                plans.append(
                    plan(self.definition, self.n_layers, self.records, sampler, self.cohort)
                )
                phase = plans[-1].phase
                if phase is Phase.done:
                    return
                mine = self._claim(plans[-1], name, index)
            yield phase
            if mine:
                yield from self._evaluate(mine, phase)

    def requeue(self) -> None:
        """Fail all running trials, and put their layer sets back into the queue."""
        for record in [r for r in self.records if r.state == TrialState.RUNNING]:
            reason = f"{keys.REASON_LOST}: it ended without a result"
            self.records[record.number] = replace(record, state=TrialState.FAIL, reason=reason)
            again = Record(
                len(self.records),
                TrialState.WAITING,
                record.layers,
                phase=record.phase,
                goal=record.goal,
                generation=record.generation,
                round=record.round,
            )
            self.records.append(again)

    def _claim(self, found: Plan, name: str, index: int) -> list[int]:
        """The numbers of new trials for this worker's share of a plan."""
        first = len(self.records)
        for proposal in found.share(name, recent_workers(self.records), index, self.cohort):
            self.records.append(
                Record(
                    len(self.records),
                    TrialState.RUNNING,
                    proposal.layers,
                    phase=proposal.phase.value,
                    goal=proposal.goal.value,
                    generation=proposal.generation,
                    round=proposal.round,
                    worker=name,
                )
            )
        return list(range(first, len(self.records)))

    def _evaluate(self, mine: Sequence[int], phase: Phase) -> Iterator[Phase]:
        """Evaluate trials to their goals, rung by rung."""
        inherited = dict.fromkeys(mine, 0)
        best = most_answers(self.records, {self.records[n].layers for n in mine})
        for n in mine:
            earlier = best.get(self.records[n].layers)
            if earlier is not None and earlier.answers is not None:
                inherited[n] = len(earlier.answers)
                self._answer(n, earlier.answers, inherited[n], earlier.halves)
        here = [n for n in mine if inherited[n] in self.questions.steps]
        active = self._advance(here) + [n for n in mine if n not in here]
        while active:
            groups = by_rung([self.records[n] for n in active], self.questions)
            active = []
            for (start, stop), group in groups:
                self.evaluated([record.layers for record in group], start, stop, phase)
                answered = []
                for record in group:
                    answers = self.answers(record.layers, stop)
                    if answers is None:
                        self.records[record.number] = replace(
                            record, state=TrialState.FAIL, reason="NaN in the logits"
                        )
                    else:
                        found = self.logs(record.layers, start, stop)
                        halves = note_rung(record.halves, answers, start, found, self.fast_weights)
                        self._answer(record.number, answers, inherited[record.number], halves)
                        answered.append(record.number)
                active += self._advance(answered)
                yield phase

    def _answer(
        self, number: int, answers: Answers, inherited: int, halves: Mapping[int, Halves]
    ) -> None:
        self.records[number] = self.questions.at(self.records[number], answers, inherited, halves)

    def _advance(self, numbers: Sequence[int]) -> list[int]:
        """Decide and note what becomes of trials at their rung; those that go on."""
        cohort = [self.records[n] for n in numbers]
        outcomes = advance(cohort, self.records, self.questions, self._prune)
        for number, outcome in outcomes.items():
            self.records[number] = conclude(self.records[number], outcome)
        return [n for n in numbers if outcomes[n] is Outcome.CONTINUE]
