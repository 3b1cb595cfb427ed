"""Whole studies on a made-up landscape, several workers in turn."""

from __future__ import annotations

from collections import Counter

import optuna
import pytest
from optuna.trial import TrialState

from optlayers.layerset import LayerSet
from optlayers.search import Phase
from optlayers.trials.ranking import best_by_layers
from tests.helpers.search_landscape import N_FAST, N_FULL, landscape_of
from tests.helpers.search_suite import SearchSuite, best_full, definition, search, study_of

ORDER = ["probe", "explore", "validate", "refine", "done"]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_phases_pass_in_order_and_no_question_is_paid_twice() -> None:
    study = search(0)
    records = study.records
    for plans in study.plans.values():
        seen = [p.phase.value for p in plans]
        assert seen == sorted(seen, key=ORDER.index)
        assert seen[-1] == "done"
    assert {r.phase for r in records} == set(ORDER[:-1])
    assert all(1 <= len(r.layers) <= 4 for r in records)
    assert all(not r.is_claimed for r in records)
    paid: Counter[LayerSet] = Counter()
    for record in records:
        paid[record.layers] += record.evaluated
    best = best_by_layers(records)
    assert dict(paid) == {layers: r.questions for layers, r in best.items()}
    # A set comes back only to go on.
    twice = Counter(r.layers for r in records)
    for layers, trials in twice.items():
        goals = [r.goal for r in records if r.layers == layers]
        # The probe begins a set, or explore, or refine; then it goes on rung by rung, or in full.
        assert trials == 1 or (set(goals[1:-1]) <= {"step"} and goals[-1] in ("step", "full"))
    assert {r.questions for r in best.values()} >= {N_FAST, N_FULL}


def test_one_worker_with_one_seed_repeats_itself() -> None:
    first, second = (search(1, workers=1).records for _ in range(2))
    assert first == second


@pytest.mark.parametrize("turns", [5, 60, 220])
def test_workers_killed_in_the_middle_leave_a_study_that_others_finish(turns: int) -> None:
    landscape = landscape_of(2)
    study = study_of(landscape, 2)
    crew = [study.worker(index) for index in range(2)]
    for turn in range(turns):
        next(crew[turn % 2], None)
    lost = [r for r in study.records if r.state == TrialState.RUNNING]
    before = len(study.records)
    next(study.worker(7), None)
    assert not {r.layers for r in study.records[before:]} & {r.layers for r in lost}
    study.requeue()
    for _ in study.worker(8):
        pass
    assert best_full(study.records).layers in landscape.best()[1]
    assert {r.layers for r in lost} <= {r.layers for r in study.records if r.is_evaluated}


def test_a_set_that_always_fails_does_not_stop_the_study() -> None:
    landscape = landscape_of(3)
    (best,) = landscape.best()[1]
    study = study_of(landscape, 0, frozenset({LayerSet.of(0), best}))
    study.run()
    failures = Counter(r.layers for r in study.records if r.state == TrialState.FAIL)
    assert failures[LayerSet.of(0)] == 3
    assert all(count <= 3 for count in failures.values())
    assert best_full(study.records).layers != best


def test_more_generations_reopen_a_finished_study() -> None:
    study = study_of(landscape_of(4), 0)
    study.run()
    before = len(study.records)
    study.definition = definition(0, explore={"population": 12, "generations": 20, "patience": 20})
    done = len(study.plans["worker 0"])
    study.run()
    assert study.plans["worker 0"][done].phase is Phase.explore
    assert len(study.records) > before


class TestSearchesOfFewSeeds(SearchSuite):
    seeds = 2
