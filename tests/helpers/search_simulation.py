"""Simulated workers: they claim, evaluate on a made-up landscape, and tell, interleaved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.study import Study
from optuna.trial import TrialState

from optlayers.config.study import StudyDefinition
from optlayers.layerset import LayerSet
from optlayers.search import (
    Explorer,
    Goal,
    Phase,
    Plan,
    RacingPruner,
    plan,
    rungs,
    sampler_for,
    search_space,
)
from optlayers.trials import keys
from optlayers.trials.reader import RecordReader
from optlayers.trials.record import encode_answers
from optlayers.trials.records import best_by_layers
from optlayers.trials.statistics import StratifiedScore
from tests.helpers.search_landscape import N_FAST, N_FULL, N_LAYERS, Landscape


def definition(**changes: Any) -> StudyDefinition:
    fields: dict[str, Any] = {
        "name": "simulated",
        "base": {"model": "base"},
        "donor": {"model": "donor"},
        "layers": {"min": 1, "max": 4},
        "tasks": [{"name": "made_up"}],
        "explore": {"population": 12, "generations": 12, "patience": 5},
        "validate": {"top": 6},
        "refine": {"top": 2, "verify": 4, "rounds": 5},
    }
    return StudyDefinition.model_validate({**fields, **changes})


def new_study(landscape: Landscape) -> Study:
    study = optuna.create_study(direction="maximize", pruner=RacingPruner())
    study.set_user_attr(keys.N_FAST, N_FAST)
    study.set_user_attr(keys.N_FULL, N_FULL)
    study.set_user_attr(keys.QUESTION_STRATA, landscape.strata.tolist())
    return study


@dataclass
class Worker:
    """Claims a cohort, then works through it one trial a step."""

    definition: StudyDefinition
    landscape: Landscape
    seed: int
    cohort: int = 8
    name: str = "worker"
    failing: frozenset[LayerSet] = frozenset()
    queue: list[optuna.Trial] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    reader: RecordReader = field(default_factory=RecordReader)
    _sampler: Explorer | None = None

    @property
    def sampler(self) -> Explorer:
        if self._sampler is None:
            self._sampler = sampler_for(self.definition, N_LAYERS, self.seed)
        return self._sampler

    def step(self, study: Study) -> bool:
        """Claim, or evaluate one trial; False once the study is done."""
        if self.queue:
            self._evaluate(study, self.queue.pop(0))
            return True
        records = self.reader.read(study.get_trials(deepcopy=False))
        found = plan(self.definition, N_LAYERS, records, self.sampler, self.cohort)
        self.plans.append(found)
        for proposal in found.proposals:
            # All parameters in one commit, already running.
            template = optuna.trial.create_trial(
                state=TrialState.RUNNING,
                params=proposal.layers.to_params(N_LAYERS),
                distributions=search_space(N_LAYERS),
                user_attrs={**proposal.user_attrs(), keys.WORKER: self.name},
            )
            number = study._storage.create_new_trial(study._study_id, template_trial=template)
            self.queue.append(optuna.Trial(study, number))
        return found.phase is not Phase.done

    def _evaluate(self, study: Study, trial: optuna.Trial) -> None:
        layers = LayerSet.parse(trial.user_attrs[keys.LAYERS])
        if layers in self.failing:
            trial.set_user_attr(keys.REASON, "NaN in the logits")
            study.tell(trial, state=TrialState.FAIL)
            return
        known = best_by_layers(self.reader.read(study.get_trials(deepcopy=False))).get(layers)
        paid = 0 if known is None or known.questions is None else known.questions
        goal = trial.user_attrs[keys.GOAL]
        scorer = StratifiedScore(strata=self.landscape.strata)
        pruned = False
        questions = 0
        for questions in rungs(N_FAST, N_FULL):
            if questions < paid:
                continue
            answers = self.landscape.answers(layers, questions)
            interval = scorer.interval(answers)
            trial.set_user_attr(keys.ANSWERS, encode_answers(answers))
            trial.set_user_attr(keys.QUESTIONS, questions)
            trial.set_user_attr(keys.SCORE, interval.score)
            trial.report(interval.score, questions)
            if questions == N_FULL:
                break
            if goal != Goal.full and trial.should_prune():
                trial.set_user_attr(keys.REASON, keys.REASON_BEATEN)
                pruned = True
                break
            if (goal == Goal.step and questions > paid) or (
                goal == Goal.fast and questions >= N_FAST
            ):
                pruned = True
                break
        trial.set_user_attr(keys.FIDELITY, "full" if questions == N_FULL else "fast")
        trial.set_user_attr(keys.EVALUATED, questions - paid)
        if pruned:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, interval.score)


def run(study: Study, workers: list[Worker], seed: int = 0, most: int = 20_000) -> None:
    """Let the workers take turns at random until each says that the study is done."""
    rng = np.random.default_rng(seed)
    active = list(workers)
    for _ in range(most):
        if not active:
            return
        worker = active[int(rng.integers(len(active)))]
        if not worker.step(study):
            active.remove(worker)
    raise AssertionError("the study did not end")
