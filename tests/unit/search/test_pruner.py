from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.study import Study
from optuna.trial import Trial, TrialState

from optlayers.errors import InputError
from optlayers.search import RacingPruner, rungs
from optlayers.trials import keys
from optlayers.trials.record import Record
from tests.helpers.racing_suite import RacingSuite, contender, judge


def running(study: Study, layers: str, score: float, questions: int, **attrs: Any) -> Trial:
    trial = study.ask()
    trial.set_user_attr(keys.LAYERS, layers)
    for key, found in attrs.items():
        trial.set_user_attr(key, found)
    trial.report(score, questions)
    return trial


def test_rungs_double_from_fast_to_full() -> None:
    assert rungs(570, 2850) == [142, 285, 570, 1140, 2280, 2850]
    assert rungs(40, 100) == [20, 40, 80, 100]  # a quarter would be too few to tell
    assert rungs(10, 10) == [10]
    assert rungs(10, 20) == [10, 20]
    assert rungs(30, 20) == [20]


def test_a_poor_trial_is_pruned_and_a_good_one_goes_on() -> None:
    study = optuna.create_study(direction="maximize", pruner=RacingPruner(top_k=2))
    for i, score in enumerate((0.7, 0.72, 0.4)):
        study.tell(running(study, str(i), score, 400), score)
    assert running(study, "10", 0.4, 400).should_prune()
    assert not running(study, "11", 0.68, 400).should_prune()


def test_minimising_turns_it_round() -> None:
    study = optuna.create_study(direction="minimize", pruner=RacingPruner(top_k=2))
    for i, score in enumerate((0.1, 0.12, 0.6)):
        study.tell(running(study, str(i), score, 400), score)
    assert running(study, "10", 0.6, 400).should_prune()
    assert not running(study, "11", 0.13, 400).should_prune()


def test_few_contenders_prune_nothing() -> None:
    study = optuna.create_study(direction="maximize", pruner=RacingPruner(top_k=3))
    for i in range(2):
        study.tell(running(study, str(i), 0.9, 400), 0.9)
    # A trial of fewer questions, another of the same set, and a failed one are no contenders.
    running(study, "7", 0.9, 100)
    study.tell(running(study, "10", 0.9, 400), 0.9)
    study.tell(running(study, "8", 0.9, 400), state=TrialState.FAIL)
    assert not running(study, "10", 0.1, 400).should_prune()


def test_running_trials_of_the_cohort_are_contenders() -> None:
    study = optuna.create_study(direction="maximize", pruner=RacingPruner(top_k=3))
    for i in range(3):
        running(study, str(i), 0.9, 400)
    assert running(study, "10", 0.1, 400).should_prune()


def test_nothing_is_decided_before_min_questions_or_at_the_end() -> None:
    study = optuna.create_study(direction="maximize", pruner=RacingPruner(min_questions=500))
    study.set_user_attr(keys.N_FAST, 100)
    study.set_user_attr(keys.N_FULL, 800)
    for i in range(8):
        study.tell(running(study, str(i), 0.9, 800), 0.9)
    assert not running(study, "10", 0.1, 400).should_prune()
    assert running(study, "11", 0.1, 600).should_prune()
    assert not running(study, "12", 0.1, 800).should_prune()


def test_scores_that_are_no_shares_prune_nothing() -> None:
    study = optuna.create_study(direction="maximize", pruner=RacingPruner(top_k=1))
    study.tell(running(study, "1", 90.0, 400), 90.0)
    assert not running(study, "2", 10.0, 400).should_prune()


def test_trials_without_layers_or_reports_are_kept() -> None:
    study = optuna.create_study(pruner=RacingPruner(top_k=1))
    assert not study.ask().should_prune()
    trial = study.ask()
    trial.report(0.5, 1)
    assert not trial.should_prune()


def test_pairing_sees_what_scores_alone_cannot() -> None:
    rng = np.random.default_rng(0)
    difficulty = rng.random(400)
    # The same questions but for 25 that the candidate misses.
    good = difficulty < 0.6
    answers = good.copy()
    answers[np.flatnonzero(good)[:25]] = False
    others = [contender(i, good) for i in range(3)]
    pruner = RacingPruner(top_k=2)
    candidate = contender(9, answers)
    assert judge(pruner, candidate, others)
    unpaired = [Record(r.number, r.state, r.layers, questions=400, score=r.score) for r in others]
    assert not judge(pruner, candidate, unpaired)


def test_strata_of_the_study_are_used_for_weighted_subjects() -> None:
    # Subject 1 carries nearly all the weight, and there the candidate is as good.
    strata = np.arange(400) % 2
    rng = np.random.default_rng(0)
    base = rng.random(400) < 0.6
    worse = base.copy()
    worse[(strata == 0) & base] = False
    others = [contender(i, base) for i in range(5)]
    candidate = contender(9, worse)
    assert judge(RacingPruner(top_k=2), candidate, others)
    weighted = RacingPruner(top_k=2, question_strata=strata, subject_weights=[0.01, 0.99])
    assert not judge(weighted, candidate, others)


def test_most_of_a_poor_population_is_stopped_at_the_first_rung() -> None:
    rng = np.random.default_rng(0)
    pruner = RacingPruner(top_k=5)
    truth = np.concatenate([np.full(8, 0.6), rng.normal(0.35, 0.05, 192)])
    rng.shuffle(truth)
    records: list[Record] = []
    went_on = 0
    for number, p in enumerate(truth):
        answers = rng.random(2280) < p
        fast = contender(number, answers[:570])
        out = judge(pruner, fast, records, n_fast=570, n_full=2280)
        records.append(fast if out else contender(number, answers, [570, 2280]))
        went_on += not out
    assert went_on < 60
    assert all(r.questions == 2280 for r in records if truth[r.number] == 0.6)


def test_steps_at_which_nobody_stops_choose_nobody() -> None:
    """A plain study that reports after every ten questions prunes as one that reports twice."""
    rng = np.random.default_rng(5)
    often = list(range(10, 401, 10))
    strong = [rng.random(400) < 0.8 for _ in range(6)]
    weak = rng.random(400) < 0.5
    pruner = RacingPruner(top_k=2)
    for steps in (often, [200, 400]):
        others = [contender(i, answers, steps) for i, answers in enumerate(strong)]
        known = [n for n in steps if n <= 200]
        assert judge(pruner, contender(9, weak[:200], known), others)


@pytest.mark.parametrize("further", [True, False])
def test_a_cohort_is_judged_as_each_of_it_alone(further: bool) -> None:
    rng = np.random.default_rng(2)
    n_full, here = 400, 200
    skills = rng.uniform(0.3, 0.8, 40)
    finished = [
        contender(i, rng.random(n_full) < p, [100, here, n_full])
        if further and i % 2
        else contender(i, rng.random(here) < p, [100, here])
        for i, p in enumerate(skills)
    ]
    cohort = [
        replace(contender(50 + i, rng.random(here) < p, [100, here]), state=TrialState.RUNNING)
        for i, p in enumerate(np.linspace(0.3, 0.8, 12))
    ]
    # One of them has a finished trial of its own set, as far as it is.
    cohort[3] = replace(cohort[3], layers=finished[0].layers)
    records = [*finished, *cohort]
    pruner = RacingPruner(top_k=3)
    alone = {
        c.number
        for c in cohort
        if judge(pruner, c, [r for r in records if r.number != c.number], n_fast=100, n_full=n_full)
    }
    assert pruner.beaten(cohort, records, n_fast=100, n_full=n_full) == alone
    assert 0 < len(alone) < len(cohort)


def test_questions_without_weight_or_subject_are_told_or_decide_nothing() -> None:
    rng = np.random.default_rng(7)
    strata = np.repeat([0, 1], [12, 84])
    others = [contender(i, rng.random(96) < 0.9) for i in range(3)]
    others += [contender(i, rng.random(12) < 0.9) for i in range(3, 9)]
    poor = contender(20, rng.random(12) < 0.1)
    unweighted = RacingPruner(top_k=2, question_strata=strata, subject_weights=[0.0, 1.0])
    assert not judge(unweighted, poor, others)
    with pytest.raises(InputError, match="question_strata: 95 for 96 questions"):
        judge(RacingPruner(top_k=2, question_strata=strata[:95]), poor, others)


@pytest.mark.parametrize("settings", [{"top_k": 0}, {"alpha": 0.0}, {"alpha": 0.5}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        RacingPruner(**settings)  # type: ignore[arg-type]


class TestErrorRatesInFewCrowds(RacingSuite):
    crowds = 80
