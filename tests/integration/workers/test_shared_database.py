"""Many workers at once on one database: processes on SQLite, and servers."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from benchmarks.lib.forked_worker import CONTEXT
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search import Goal, Outcome, Phase, Proposal
from optlayers.storage.connect import (
    open_study,
    stored_definition,
)
from optlayers.trials import keys
from optlayers.workers.queue import TrialQueue
from tests.helpers.queue import SET, answer, proposal, queue_in
from tests.helpers.replay import (
    N_LAYERS,
    assert_sound,
    definition,
    study_in,
    trials_in,
    url_in,
    worker_at,
)


def create_often(folder: str, barrier: Any, failures: Any) -> None:
    for number in range(6):
        barrier.wait(60)
        try:
            open_study(f"sqlite:///{folder}/{number}.db", definition())
        except BaseException as error:
            failures.put(repr(error))


def test_processes_that_create_the_study_at_once_all_get_it(tmp_path: Path) -> None:
    barrier, failures = CONTEXT.Barrier(3), CONTEXT.Queue()
    arguments = (str(tmp_path), barrier, failures)
    processes = [CONTEXT.Process(target=create_often, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(180)
        assert process.exitcode == 0
    assert failures.empty(), failures.get()
    for number in range(6):
        url = f"sqlite:///{tmp_path}/{number}.db"
        assert stored_definition(url, "replayed") == definition().to_dict()


def pop_all(folder: Path, barrier: Any, found: Any) -> None:
    queue = queue_in(folder)
    trials = queue.study.get_trials()
    barrier.wait(60)
    found.put([claim.number for claim in queue.claim_waiting(trials, 99)])


def test_workers_that_reach_for_the_queue_at_once_take_each_trial_once(tmp_path: Path) -> None:
    queue = queue_in(tmp_path)
    sets = list(LayerSpace(N_LAYERS, 2, 2))[:30]
    queue.claim([Proposal(layers, Phase.explore, Goal.race) for layers in sets])
    queue.release()
    barrier, found = CONTEXT.Barrier(3), CONTEXT.Queue()
    arguments = (tmp_path, barrier, found)
    processes = [CONTEXT.Process(target=pop_all, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    taken = [number for _ in processes for number in found.get(timeout=60)]
    for process in processes:
        process.join(60)
    assert sorted(taken) == list(range(30, 60))


def hold(folder: Path, started: Any) -> None:
    queue_in(folder).claim([proposal()])
    started.set()
    time.sleep(60)


def test_the_claim_of_a_killed_process_is_failed_and_queued_once(tmp_path: Path) -> None:
    queue = queue_in(tmp_path)
    started = CONTEXT.Event()
    process = CONTEXT.Process(target=hold, args=(tmp_path, started))
    process.start()
    assert started.wait(60)
    assert queue.reap(queue.study.get_trials(deepcopy=False)) == 0  # it lives
    process.kill()
    process.join()
    seen = queue.study.get_trials(deepcopy=False)
    assert queue.reap(seen) == 1
    assert queue_in(tmp_path).reap(seen) == 0  # another worker that saw the same was too late
    lost, again = queue.study.get_trials()
    assert lost.state == TrialState.FAIL
    assert lost.user_attrs[keys.REASON].startswith("lost worker")
    assert (again.state, again.user_attrs[keys.LAYERS]) == (TrialState.WAITING, "1,4")
    assert again.params == LayerSpace(N_LAYERS).params(SET)


@pytest.mark.parametrize("server", ["postgresql_url", "mysql_url"])
def test_on_a_server_workers_that_claim_at_once_take_each_set_once(
    server: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(server)
    sets = list(LayerSpace(N_LAYERS, 2, 2))[:12]
    workers = 4
    barrier = threading.Barrier(workers)

    def claim(index: int) -> tuple[list[LayerSet], list[int]]:
        queue = TrialQueue(open_study(url, definition()), LayerSpace(N_LAYERS), "cpu")
        queue.worker = f"elsewhere:{index}:1"
        mine = sets[index:] + sets[:index]
        barrier.wait(60)
        taken = queue.claim([Proposal(layers, Phase.explore, Goal.race) for layers in mine])
        barrier.wait(60)
        queue.release()
        barrier.wait(60)
        again = queue.claim_waiting(queue.study.get_trials(), 99)
        queue.commit([(answer(c, 4), Outcome.PAUSE) for c in again])
        return [c.layers for c in taken], [c.number for c in again]

    open_study(url, definition())
    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(claim, range(workers)))
    assert sorted(layers for taken, _ in results for layers in taken) == sets
    assert sorted(number for _, again in results for number in again) == list(range(12, 24))
    trials = open_study(url, definition()).get_trials()
    assert [t.number for t in trials] == list(range(24))
    assert {t.state for t in trials[12:]} == {TrialState.PRUNED}


def work(folder: Path, index: int, seconds: float) -> None:
    """One worker process; SIGTERM stops it as the command line does."""
    from optlayers.errors import Stopped

    def stop(number: int, frame: Any) -> None:
        raise Stopped

    signal.signal(signal.SIGTERM, stop)
    try:
        worker_at(url_in(folder), index=index, seconds=seconds, small=True).run()
    except Stopped:
        os._exit(130)


def work_at_once(folder: Path, index: int, barrier: Any) -> None:
    barrier.wait(60)
    work(folder, index, 1e-3)


def test_three_workers_at_once_agree(tmp_path: Path) -> None:
    study_in(tmp_path)
    barrier = CONTEXT.Barrier(3)
    processes = [
        CONTEXT.Process(target=work_at_once, args=(tmp_path, i, barrier)) for i in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
        assert process.exitcode == 0
    assert_sound(study_in(tmp_path), small=True)
    assert len({t.user_attrs["worker"] for t in trials_in(tmp_path)}) == 3


def test_a_worker_killed_in_the_middle_leaves_nothing_stuck(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    process = CONTEXT.Process(target=work, args=(tmp_path, 0, 2e-3))
    process.start()
    deadline = time.monotonic() + 300
    lost: list[optuna.trial.FrozenTrial] = []
    while not lost:  # held still first: between two cohorts nothing is running
        assert time.monotonic() < deadline
        time.sleep(0.1)
        os.kill(process.pid or 0, signal.SIGSTOP)
        seen = study.get_trials(deepcopy=False)
        if sum(t.state.is_finished() for t in seen) >= 12:
            lost = [t for t in seen if t.state == TrialState.RUNNING]
        os.kill(process.pid or 0, signal.SIGKILL if lost else signal.SIGCONT)
    process.join()
    worker_at(url_in(tmp_path), index=1, small=True).run()
    assert_sound(study_in(tmp_path), small=True)
    after = {t.number: t for t in trials_in(tmp_path)}
    assert all(after[t.number].state == TrialState.FAIL for t in lost)
    assert all("lost worker" in after[t.number].user_attrs["reason"] for t in lost)


def test_a_stopped_worker_returns_its_claims_within_seconds(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    process = CONTEXT.Process(target=work, args=(tmp_path, 0, 5e-3))
    process.start()
    deadline = time.monotonic() + 300
    while not any(t.state == TrialState.RUNNING for t in study.get_trials()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    process.join(timeout=10)
    assert process.exitcode == 130
    states = [t.state for t in trials_in(tmp_path)]
    assert TrialState.RUNNING not in states
    assert TrialState.WAITING in states
    worker_at(url_in(tmp_path), index=1, small=True).run()
    assert_sound(study_in(tmp_path), small=True)
