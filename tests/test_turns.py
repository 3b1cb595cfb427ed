"""Turns: one worker does a piece of work, the others wait for it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from replay import study_in, url_in, worker_at
from test_worker import Counting

from optlayers import turns
from optlayers.liveness import host_name, process_name
from optlayers.storage import open_storage
from optlayers.turns import in_turn


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
        in_turn(mine, f"worker {number}", {name: partial(slowly, name) for name in "abc"})
        return len(did)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(4))) == [3] * 4
    assert sorted(did) == ["a", "b", "c"]


def test_what_fails_is_left_to_another(study: optuna.Study) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_turn(study, process_name(), {"a": fail})
    did: list[str] = []
    in_turn(study, process_name(), {"a": lambda: did.append("a")})
    in_turn(study, process_name(), {"a": fail})
    assert did == ["a"]


def test_the_turn_of_a_worker_that_ended_is_taken_over(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "POLL", 0.05)
    did: list[str] = []
    line = {"since": time.time(), "token": "x", "done": False}
    for name, worker in (("here", f"{host_name()}:1:1"), ("elsewhere", "other:1:1")):
        attrs: dict[str, Any] = {**line, "worker": worker}
        study._storage.set_study_system_attr(study._study_id, turns.KEY + name, attrs)
    in_turn(study, process_name(), {"here": lambda: did.append("here")})
    assert did == ["here"]
    monkeypatch.setattr(turns, "LONGEST", 0.5)
    in_turn(study, process_name(), {"elsewhere": lambda: did.append("elsewhere")})
    assert did == ["here", "elsewhere"]


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
