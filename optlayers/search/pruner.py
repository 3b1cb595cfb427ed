"""RacingPruner: prunes a trial once it can no longer be among the best k."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optlayers.errors import InputError
from optlayers.search.racing import Race
from optlayers.search.rungs import Prune, Rungs, rungs
from optlayers.trials import keys
from optlayers.trials.ranking import best_by_layers
from optlayers.trials.record import Record, RecordReader, read_record
from optlayers.trials.statistics import FloatArray, IntArray


class RacingPruner(BasePruner):
    """Prunes a trial when `top_k` others are better, with error rate `alpha`.

    Trials report their share of right answers with the number of questions as the step. A trial
    whose true score equals or exceeds that of the `top_k`-th best contender is pruned with
    probability at most `alpha` over all its rungs: `alpha` is split evenly over the rungs that the
    study's `n_fast` and `n_full` give, or alpha / (r (r + 1)) at the r-th report where these are
    not set, or the trial reports elsewhere. `Race` has the test. Nothing is pruned before
    `min_questions`, or with fewer than `top_k` contenders at that many questions. In a study that
    minimises, only scores are compared.

    Comparisons on the same questions are paired where trials carry the attributes `answers` and
    `questions`; all are stratified by `question_strata` (int [n_full]) and `subject_weights`
    (float [S]), given here or as attributes of the study. Raises `InputError` for settings out of
    range.
    """

    def __init__(
        self,
        *,
        top_k: int = 5,
        alpha: float = 0.05,
        min_questions: int = 1,
        question_strata: Sequence[int] | IntArray | None = None,
        subject_weights: Sequence[float] | FloatArray | None = None,
    ) -> None:
        if top_k < 1:
            raise InputError(f"top_k is {top_k}; expected 1 or more")
        if not 0.0 < alpha < 0.5:
            raise InputError(f"alpha is {alpha}; expected more than 0 and less than 0.5")
        self.top_k = top_k
        self.alpha = alpha
        self.min_questions = min_questions
        self._strata = None if question_strata is None else np.asarray(question_strata, np.intp)
        self._weights = None if subject_weights is None else np.asarray(subject_weights, float)
        self._reader = RecordReader()
        # Attributes of a study are large and never change; they are read once per study.
        self._settings: dict[str, tuple[int | None, int | None, Any, Any]] = {}

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether to prune the trial at its last reported step."""
        candidate = read_record(trial)
        if candidate is None or trial.last_step is None:
            return False
        trials = study.get_trials(
            deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        )
        n_fast, n_full, strata, weights = self._settings_of(study)
        records = self._reader.read(trials)
        maximise = study.direction != StudyDirection.MINIMIZE
        return bool(
            self.beaten(
                [candidate],
                [record for record in records if record.number != trial.number],
                n_fast=n_fast,
                n_full=n_full,
                strata=strata,
                weights=weights,
                maximise=maximise,
            )
        )

    def on(self, questions: Rungs) -> Prune:
        """The pruner of a study with these questions, as `advance` calls it."""
        return functools.partial(
            self.beaten,
            n_fast=questions.n_fast,
            n_full=questions.n_full,
            strata=questions.strata,
            weights=questions.score.weights,
        )

    def beaten(
        self,
        candidates: Sequence[Record],
        records: Sequence[Record],
        *,
        n_fast: int | None = None,
        n_full: int | None = None,
        strata: IntArray | None = None,
        weights: FloatArray | None = None,
        maximise: bool = True,
    ) -> set[int]:
        """The trial numbers of the candidates to prune, each at the last step of `intermediate`.

        `records` may hold the candidates; no candidate competes with its own layer set. What a race
        needs to know of the contenders is computed once for all candidates.
        """
        races: dict[tuple[int, float], list[Record]] = {}
        for candidate in candidates:
            n = max(candidate.intermediate, default=0)
            if n >= max(1, self.min_questions) and (n_full is None or n < n_full):
                level = self._level(candidate, n_fast, n_full)
                races.setdefault((n, level), []).append(candidate)
        contenders = _contenders(records) if races else []
        beaten: set[int] = set()
        for (n, level), group in races.items():
            race = Race(
                questions=n,
                top_k=self.top_k,
                level=level,
                strata=self._strata if self._strata is not None else strata,
                weights=self._weights if self._weights is not None else weights,
                maximise=maximise,
            )
            out = race.beaten(group, contenders)
            beaten |= {c.number for c, is_out in zip(group, out, strict=True) if is_out}
        return beaten

    def _level(self, candidate: Record, n_fast: int | None, n_full: int | None) -> float:
        if n_fast is not None and n_full is not None:
            steps = rungs(n_fast, n_full)
            if candidate.intermediate.keys() <= set(steps):
                # At the last rung there is nothing left to decide.
                return self.alpha / max(1, len(steps) - 1)
        look = len(candidate.intermediate)
        return self.alpha / (look * (look + 1))

    def _settings_of(
        self, study: Study
    ) -> tuple[int | None, int | None, IntArray | None, FloatArray | None]:
        known = self._settings.get(study.study_name)
        if known is None:
            attrs = study.user_attrs
            strata = attrs.get(keys.QUESTION_STRATA)
            weights = attrs.get(keys.SUBJECT_WEIGHTS)
            known = (
                attrs.get(keys.N_FAST),
                attrs.get(keys.N_FULL),
                None if strata is None else np.asarray(strata, np.intp),
                None if weights is None else np.asarray(weights, np.float64),
            )
            if known[1] is not None:
                self._settings[study.study_name] = known
        return known


def _contenders(records: Sequence[Record]) -> list[Record]:
    """One record per layer set: the finished one with most questions, or else the running one."""
    best = {record.layers.indices: record for record in best_by_layers(records).values()}
    for record in records:
        if record.is_claimed and record.intermediate and record.layers.indices not in best:
            steps = record.intermediate
            here = max(steps)
            if not record.packed_answers or (record.questions or 0) < here:
                record = replace(record, questions=here, score=steps[here], packed_answers="")
            best[record.layers.indices] = record
    return list(best.values())
