"""One-time jobs: one worker does a job, the others wait for it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest

from optlayers.errors import TimeUp
from optlayers.storage.connect import open_storage
from optlayers.storage.heartbeat import host_name, process_name
from optlayers.storage.store import store_of
from optlayers.workers import once
from optlayers.workers.once import do_once
from tests.helpers.replay import Counting, study_in, url_in, worker_at


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    return study_in(tmp_path)


def test_each_piece_is_done_once_and_all_wait_until_it_is(
    study: optuna.Study, tmp_path: Path
) -> None:
    did: list[str] = []

    def slowly(name: str) -> None:
        time.sleep(0.2)
        did.append(name)

    def one(number: int) -> int:
        mine = optuna.load_study(
            study_name=study.study_name, storage=open_storage(url_in(tmp_path))
        )
        do_once(mine, f"worker {number}", {name: partial(slowly, name) for name in "abc"})
        return len(did)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(4))) == [3] * 4
    assert sorted(did) == ["a", "b", "c"]


def test_what_fails_is_left_to_another(study: optuna.Study) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        do_once(study, process_name(), {"a": fail})
    did: list[str] = []
    do_once(study, process_name(), {"a": lambda: did.append("a")})
    do_once(study, process_name(), {"a": fail})
    assert did == ["a"]


def lease_of(study: optuna.Study, name: str, **changes: Any) -> dict[str, Any]:
    """A lease that another worker has written."""
    lease = {"worker": "other:1:1", "token": "x", "tries": 1, "beat": 0, "done": False, **changes}
    store_of(study).put_attrs({once.KEY + name: lease})
    return lease


def test_the_lease_of_a_worker_that_ended_is_taken_over(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(once, "POLL", 0.05)
    did: list[str] = []
    lease_of(study, "here", worker=f"{host_name()}:1:1")
    do_once(study, process_name(), {"here": lambda: did.append("here")})
    assert did == ["here"]
    monkeypatch.setattr(once, "GRACE_SECONDS", 0.5)
    lease_of(study, "elsewhere")
    do_once(study, process_name(), {"elsewhere": lambda: did.append("elsewhere")})
    assert did == ["here", "elsewhere"]


def test_a_lease_lasts_as_long_as_its_worker_lives(
    study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("POLL", 0.05), ("HEARTBEAT_SECONDS", 0.1), ("GRACE_SECONDS", 0.6)):
        monkeypatch.setattr(once, name, seconds)
    did: list[int] = []

    def slowly(number: int) -> None:
        time.sleep(2)
        did.append(number)

    def one(number: int) -> None:
        mine = optuna.load_study(
            study_name=study.study_name, storage=open_storage(url_in(tmp_path))
        )
        do_once(mine, f"host {number}:1:1", {"a": partial(slowly, number)})

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(one, range(3)))
    assert len(did) == 1


def test_work_that_ends_its_workers_is_given_up(study: optuna.Study) -> None:
    def fail() -> None:
        raise ValueError("broken")

    for _ in range(once.MOST_TRIES):
        assert not once.are_done(study, ["a"])
        with pytest.raises(ValueError, match="broken"):
            do_once(study, process_name(), {"a": fail})
    said: list[str] = []
    do_once(study, process_name(), {"a": fail}, say=said.append)
    assert said == ["a is given up: it ended 4 workers"]
    assert once.are_done(study, ["a"])


def test_who_waits_for_others_leaves_in_time(study: optuna.Study) -> None:
    lease_of(study, "a")
    with pytest.raises(TimeUp):
        do_once(study, process_name(), {"a": lambda: None}, end=time.monotonic())


def test_two_workers_ask_base_and_donor_once(tmp_path: Path) -> None:
    url = url_in(tmp_path)
    evaluators = [Counting(), Counting()]
    workers = [worker_at(url, index=i, small=True) for i in range(2)]
    for worker, evaluator in zip(workers, evaluators, strict=True):
        worker.evaluator = evaluator
    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(lambda worker: worker.run(), workers))
    asked = evaluators[0].asked + evaluators[1].asked
    ends = [count for (layers, _), count in asked.items() if len(layers) in (0, 10)]
    assert len(ends) == 2 * evaluators[0].order.n_full
    assert set(ends) == {1}
