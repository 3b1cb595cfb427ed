from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from optlayers.errors import RunError, StorageError
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.results.leaderboard import leaderboard
from optlayers.results.view import StudyView
from optlayers.search import RacingPruner, Rungs, pruner_for, search_space
from optlayers.storage import heartbeat
from optlayers.storage.connect import open_study
from optlayers.testing import ReplayEvaluator, Simulation
from optlayers.trials.record import read_records
from optlayers.workers.heldout import is_done
from optlayers.workers.queue import check_not_all_failed
from optlayers.workers.worker import Worker
from tests.helpers.replay import (
    BEST,
    Broken,
    Counting,
    assert_sound,
    definition,
    landscape,
    study_in,
    trials_in,
    url_in,
    worker_at,
    worker_in,
)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_worker_finds_the_best_set(tmp_path: Path, seed: int) -> None:
    worker = worker_in(tmp_path, seed)
    assert worker.run()
    rows = leaderboard(definition(seed), read_records(worker.study.get_trials(deepcopy=False)))
    assert LayerSet(tuple(rows[0].layers)) == BEST
    assert rows[0].fidelity == "full"
    fidelities = [row.fidelity for row in rows]
    assert fidelities == sorted(fidelities, reverse=True)  # full before fast


def test_the_same_seed_gives_the_same_search(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        worker_at(url_in(tmp_path / name), small=True).run()
        found.append([(t.user_attrs["layers"], t.state) for t in trials_in(tmp_path / name)])
    assert found[0] == found[1]


@pytest.mark.parametrize(("seed", "logs"), [(0, False), (3, False), (0, True)])
def test_a_worker_does_what_the_simulation_says(tmp_path: Path, seed: int, logs: bool) -> None:
    known, mine = landscape(), definition(seed, small=True)
    order = known.order
    if logs:
        draw = np.random.default_rng(0).uniform(0.0, 0.5, (len(known.answers), order.n_fast))
        right = known.answers[:, : order.n_fast]
        known = replace(known, logs=np.log(np.where(right, 0.4 + draw, 0.1 + draw / 2)))
    study = Simulation(
        mine,
        known.n_layers,
        Rungs(order.n_fast, order.n_full, order.subject, order.weights),
        lambda layers, n: known.answers[known.index[layers], :n],
        logs=known.logs_of,
        fast_weights=order.fast_weights,
    )
    simulated = study.run()
    stored = open_study(url_in(tmp_path), mine, pruner=pruner_for(mine, order.n_fast))
    assert Worker(mine, stored, ReplayEvaluator(known)).run()
    real = read_records(stored.get_trials(deepcopy=False))
    done = [
        [(r.layers, r.state, r.phase, r.goal, r.questions, r.evaluated, r.score) for r in records]
        for records in (simulated, real)
    ]
    assert done[0] == done[1]


def broken_worker(folder: Path, evaluator: Broken) -> Worker:
    return Worker(definition(small=True), study_in(folder), evaluator, cohort=6)


def test_a_set_that_gives_nan_fails_and_the_search_goes_on(tmp_path: Path) -> None:
    worker = broken_worker(tmp_path, Broken({LayerSet.of(4), LayerSet.of(2, 5)}))
    assert worker.run()
    failed = [t for t in trials_in(tmp_path) if t.state == TrialState.FAIL]
    assert {t.user_attrs["layers"] for t in failed} <= {"4", "2,5"}
    assert all("NaN" in t.user_attrs["reason"] for t in failed)
    assert 1 <= len(failed) <= 6  # given up after three tries each
    assert_sound(study_in(tmp_path), small=True)


def test_an_evaluation_that_raises_gives_its_claims_back(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the device has left"):
        broken_worker(tmp_path, Broken(set(), fail_at=4)).run()
    states = [t.state for t in trials_in(tmp_path)]
    assert TrialState.RUNNING not in states
    assert TrialState.WAITING in states
    assert worker_at(url_in(tmp_path), small=True).run()
    assert_sound(study_in(tmp_path), small=True)


def test_a_study_in_which_everything_fails_ends_with_the_reason() -> None:
    one = create_trial(state=TrialState.FAIL, user_attrs={"reason": "NaN in the logits"})
    check_not_all_failed([one] * 9)
    check_not_all_failed([*[one] * 20, create_trial(state=TrialState.COMPLETE, value=0.5)])
    with pytest.raises(RunError, match="all 10 trials have failed; the last one: NaN"):
        check_not_all_failed([one] * 10)


@pytest.mark.parametrize("what", ["n_fast", "documents"])
def test_other_questions_than_the_study_began_with_are_refused(tmp_path: Path, what: str) -> None:
    worker_in(tmp_path)
    evaluator = ReplayEvaluator(landscape())
    order = evaluator.order
    first, *others = order.subjects
    changed: dict[str, Any] = {
        "n_fast": {"n_fast": order.n_fast + 1},
        "documents": {"subjects": (replace(first, digest="of other documents"), *others)},
    }
    evaluator.order = replace(order, **changed[what])
    with pytest.raises(StorageError, match=f"{what} has changed"):
        Worker(definition(), study_in(tmp_path), evaluator)


def test_no_question_is_asked_twice_and_the_budget_holds(tmp_path: Path) -> None:
    evaluator = Counting()
    assert broken_worker(tmp_path, evaluator).run()
    assert set(evaluator.asked.values()) == {1}
    records = read_records(trials_in(tmp_path))
    # Base and donor, to compare with, are no trials.
    searched = [key for key in evaluator.asked if 0 < len(key[0]) <= 3]
    assert sum(record.evaluated for record in records) == len(searched)
    explored = {r.layers for r in records if r.phase == "explore"}
    assert 6 <= len(explored) <= 6 * 2
    validated = [r for r in records if r.phase == "validate"]
    assert 1 <= len(validated) <= 2
    assert all(r.is_full for r in validated)


def test_fast_answers_of_another_precision_are_asked_once_more_of_sets_that_go_on(
    tmp_path: Path,
) -> None:
    evaluator = Counting()
    worker = broken_worker(tmp_path, evaluator)
    questions = worker.definition.questions.model_copy(update={"fast_precision": "fp8"})
    worker.definition = worker.definition.model_copy(update={"questions": questions})
    assert worker.run()
    n_fast = evaluator.order.n_fast
    records = read_records(trials_in(tmp_path))
    searched = {record.layers for record in records}
    went_on = {r.layers for r in records if (r.questions or 0) > n_fast}
    assert went_on
    assert searched - went_on
    steps = {step for step in worker.rungs.steps if step <= n_fast}
    for layers in searched:
        times = {n: count for (found, n), count in evaluator.asked.items() if found == layers}
        twice = sorted(n for n, count in times.items() if count > 1)
        assert max(times.values()) <= 2
        assert twice == list(range(len(twice)))
        assert len(twice) in (steps if layers in went_on else {0})
    paid = sum(times for (layers, _), times in evaluator.asked.items() if layers in searched)
    assert sum(record.evaluated for record in records) == paid


def test_what_was_stored_before_a_break_is_not_asked_again(tmp_path: Path) -> None:
    first, second = Counting(fail_at=9), Counting()
    with pytest.raises(RuntimeError):
        broken_worker(tmp_path, first).run()
    stored = sum(t.user_attrs.get("evaluated", 0) for t in trials_in(tmp_path))
    assert broken_worker(tmp_path, second).run()
    assert stored == len(first.asked)  # the answers of trials that were given back count too
    assert not first.asked.keys() & second.asked.keys()


def test_a_study_that_is_done_goes_on_with_a_larger_budget(tmp_path: Path) -> None:
    url = url_in(tmp_path)
    first = worker_at(url, small=True)
    assert first.run()
    before = trials_of(first.study)
    # The larger budget of the same study; nothing else is another.
    assert definition(small=True).fingerprint() == definition().fingerprint()
    evaluator = Counting()
    study = open_study(url, definition(), pruner=RacingPruner(top_k=2))
    assert Worker(definition(), study, evaluator, cohort=6).run()
    assert_sound(study_in(tmp_path))
    after = trials_of(study)
    assert len(after) > len(before)
    assert after[: len(before)] == before
    # What a set had answered before, it is not asked again.
    paid: Counter[str] = Counter()
    for layers, _, evaluated in before:
        paid[layers] += evaluated or 0
    assert all(n >= paid[str(layers)] for layers, n in evaluator.asked if len(layers) in (1, 2, 3))


def trials_of(study: optuna.Study) -> list[tuple[str, TrialState, int]]:
    return [
        (t.user_attrs["layers"], t.state, t.user_attrs.get("evaluated", 0))
        for t in study.get_trials(deepcopy=False)
    ]


def queue_by_hand(study: optuna.Study) -> None:
    """What others may put into a study: sets of the budget, one of them twice, and what is none."""
    for layers in ("2,5,7", "3", "4,8", "4,8", "0,1,2,3"):
        study.enqueue_trial(LayerSpace(10).params(LayerSet.parse(layers)))
    study.enqueue_trial({"layer_03": "dono"})
    study.enqueue_trial({})


@pytest.mark.parametrize("phase", ["probe", "explore", "validate", "done"])
def test_sets_that_are_queued_by_hand_are_evaluated_in_every_phase(
    tmp_path: Path, phase: str
) -> None:
    evaluator = Counting()
    worker = broken_worker(tmp_path, evaluator)
    added: list[int] = []

    def judge(sets: Sequence[LayerSet], start: int, stop: int) -> Any:
        if worker._phase == phase and not added:
            added.append(len(worker.study.get_trials()))
            queue_by_hand(worker.study)
        return judged(sets, start, stop)

    judged = evaluator.judge
    evaluator.judge = judge  # type: ignore[method-assign, assignment]
    assert worker.run()
    if phase == "done":
        added.append(len(worker.study.get_trials()))
        queue_by_hand(worker.study)
        assert not is_done(worker.study, worker.definition)
        assert broken_worker(tmp_path, evaluator).run()
    assert_sound(worker.study, small=True)
    assert is_done(worker.study, worker.definition)
    asked = {layers for (layers, _), n in evaluator.asked.items() if 0 < len(layers) <= 3}
    assert set(evaluator.asked.values()) == {1}
    assert asked >= {LayerSet.of(2, 5, 7), LayerSet.of(3), LayerSet.of(4, 8)}
    found = trials_in(tmp_path)[added[0] : added[0] + 7]
    reasons = [str(t.user_attrs.get("reason", "")).partition(":")[0] for t in found]
    assert reasons[4:] == ["refused"] * 3
    assert not {TrialState.WAITING, TrialState.RUNNING} & {t.state for t in found}


STRANGE = {
    **{"layers": [3, 7], "phase": 1, "goal": ["a"], "score": "high", "worker": {}, "reason": 0},
    **{"questions": "many", "answers": [1], "halves": "no", "retries": "x", "generation": "first"},
}


def test_attributes_of_other_programs_under_our_names_stop_nobody(tmp_path: Path) -> None:
    worker = worker_at(url_in(tmp_path), small=True)
    space, kinds = LayerSpace(10), search_space(LayerSpace(10))
    for state in (TrialState.WAITING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL):
        worker.study.add_trial(
            create_trial(
                state=state,
                value=0.1 if state == TrialState.COMPLETE else None,
                params=space.params(LayerSet.of(1, 2)),
                distributions=kinds,
                user_attrs=STRANGE,
            )
        )
    worker.study.enqueue_trial({"layer_03": "donor"}, user_attrs=STRANGE)
    assert worker.run()
    assert StudyView.of(worker.definition, worker.study).phase == "done"
    assert TrialState.WAITING not in {t.state for t in worker.study.get_trials()}


def test_no_phase_waits_for_a_trial_that_another_program_began_and_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "GRACE_SECONDS", 0.3)
    monkeypatch.setattr("optlayers.workers.worker.REAP_SECONDS", 0.1)
    worker = worker_at(url_in(tmp_path), small=True)
    for layers in ("3", "2,5"):  # one that probe waits for, and one of explore
        worker.study.enqueue_trial(LayerSpace(10).params(LayerSet.parse(layers)))
        begun = worker.study.ask(search_space(LayerSpace(10)))
        assert worker.study.get_trials()[begun.number].state == TrialState.RUNNING
    assert worker.run()
    assert_sound(worker.study, small=True)
    left = worker.study.get_trials()[:2]
    assert [t.user_attrs["reason"].partition(":")[0] for t in left] == ["lost worker"] * 2


def test_a_search_in_which_every_set_fails_ends_with_an_error(tmp_path: Path) -> None:
    evaluator = Broken(set(LayerSpace(10, 0, 3)))
    with pytest.raises(RunError, match="trials have failed; the last one: NaN in the logits"):
        broken_worker(tmp_path, evaluator).run()


def test_a_worker_whose_time_is_up_leaves_the_study_to_others(tmp_path: Path) -> None:
    worker = worker_at(url_in(tmp_path), seconds=1e-3, small=True)
    worker.max_seconds = 0.3
    assert not worker.run()
    states = {t.state for t in trials_in(tmp_path)}
    assert TrialState.RUNNING not in states
    assert worker_at(url_in(tmp_path), small=True).run()


def test_workers_in_threads_of_one_process_agree(tmp_path: Path) -> None:
    workers = [worker_at(url_in(tmp_path), index=i, seconds=1e-4, small=True) for i in range(2)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(Worker.run, workers)) == [True, True]
    assert_sound(workers[0].study, small=True)
