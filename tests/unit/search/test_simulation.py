"""Whole studies on a made-up landscape, several workers on one Optuna study."""

from __future__ import annotations

from collections import Counter

import optuna
import pytest
from optuna.study import Study
from optuna.trial import TrialState

from optlayers.layerset import LayerSet
from optlayers.search import PatternGASampler, Phase
from optlayers.trials import keys
from optlayers.trials.record import Record
from optlayers.trials.records import best_by_layers, read_records
from tests.helpers.search_landscape import N_FAST, N_FULL, N_LAYERS, landscape_of
from tests.helpers.search_simulation import Worker, definition, new_study, run

ORDER = ["probe", "explore", "validate", "refine", "done"]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def search(seed: int, workers: int = 3) -> tuple[Study, list[Worker]]:
    landscape = landscape_of(seed)
    study = new_study(landscape)
    crew = [
        Worker(definition(), landscape, seed=seed * 10 + i, name=f"worker {i}")
        for i in range(workers)
    ]
    run(study, crew, seed)
    return study, crew


def best_full(study: Study) -> Record:
    full = [r for r in best_by_layers(read_records(study.trials)).values() if r.is_full]
    return max(full, key=lambda r: r.score or 0.0)


def test_the_true_best_is_found_for_nearly_every_seed() -> None:
    found = 0
    for seed in range(4):
        study, _ = search(seed)
        found += best_full(study).layers in landscape_of(seed).best()[1]
    assert found >= 3


def test_phases_pass_in_order_and_no_question_is_paid_twice() -> None:
    study, crew = search(0)
    records = read_records(study.trials)
    for worker in crew:
        seen = [p.phase.value for p in worker.plans]
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
    def told(study: Study) -> list[tuple[str, str, float | None]]:
        return [(str(r.layers), r.phase, r.score) for r in read_records(study.trials)]

    first, second = (search(1, workers=1)[0] for _ in range(2))
    assert told(first) == told(second)


@pytest.mark.parametrize("turns", [5, 60, 220])
def test_workers_killed_in_the_middle_leave_a_study_that_others_finish(turns: int) -> None:
    landscape = landscape_of(2)
    study = new_study(landscape)
    crew = [Worker(definition(), landscape, seed=i, name=f"worker {i}") for i in range(2)]
    for turn in range(turns):
        crew[turn % 2].step(study)
    lost = [t for t in study.trials if t.state == TrialState.RUNNING]
    stuck = Worker(definition(), landscape, seed=7)
    stuck.step(study)
    assert not {str(p.layers) for p in stuck.plans[0].proposals} & {
        t.user_attrs[keys.LAYERS] for t in lost
    }
    for trial in [t for t in study.trials if t.state == TrialState.RUNNING]:
        study.tell(trial.number, state=TrialState.FAIL)
    run(study, [Worker(definition(), landscape, seed=8)])
    assert best_full(study).layers in landscape.best()[1]
    finished = {r.layers for r in read_records(study.trials) if r.is_evaluated}
    assert {
        LayerSet.parse(t.user_attrs[keys.LAYERS])
        for t in lost
        if t.user_attrs[keys.PHASE] != "explore"
    } <= finished


def test_a_set_that_always_fails_does_not_stop_the_study() -> None:
    landscape = landscape_of(3)
    study = new_study(landscape)
    (best,) = landscape.best()[1]
    failing = frozenset({LayerSet.of(0), best})
    run(study, [Worker(definition(), landscape, seed=0, failing=failing)])
    failures = Counter(r.layers for r in read_records(study.trials) if r.state == TrialState.FAIL)
    assert failures[LayerSet.of(0)] == 3
    assert all(count <= 3 for count in failures.values())
    assert best_full(study).layers != best


def test_more_generations_reopen_a_finished_study() -> None:
    landscape = landscape_of(4)
    study = new_study(landscape)
    run(study, [Worker(definition(), landscape, seed=0)])
    before = len(study.trials)
    larger = definition(explore={"population": 12, "generations": 20, "patience": 20})
    worker = Worker(larger, landscape, seed=0)
    run(study, [worker])
    assert worker.plans[0].phase is Phase.explore
    assert len(study.trials) > before


def test_the_sampler_needs_far_fewer_sets_than_random_draws() -> None:
    needed = []
    for seed in range(5):
        landscape = landscape_of(seed)
        _, best = landscape.best()
        sampler = PatternGASampler(n_layers=N_LAYERS, population_size=20, seed=seed)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for _ in range(600):
            trial = study.ask(sampler.search_space())
            layers = LayerSet.from_params(trial.params)
            study.tell(trial, landscape.score(layers))
            if layers in best:
                break
        needed.append(len(study.trials))
    # Random draws without repetition need half of the 2,516 sets in the median.
    assert sorted(needed)[2] < 300
