"""The stores on real database servers, and searches by Optuna's public calls alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.lib.forked_worker import CONTEXT
from optlayers.storage import tables
from optlayers.storage.connect import open_study
from optlayers.storage.store import StudyStore, store_of
from tests.helpers.replay import assert_sound, definition, url_in, worker_at
from tests.helpers.storage_suite import StorageSuite, check_gone, check_reading, open_store

SERVERS = ["postgresql_url", "mysql_url"]


class TestStoresOnServers(StorageSuite):
    @pytest.fixture(params=SERVERS)
    def url(self, request: pytest.FixtureRequest) -> str:
        return str(request.getfixturevalue(request.param))

    @pytest.fixture(params=["fast", "plain"])
    def store(
        self, request: pytest.FixtureRequest, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> StudyStore:
        return open_store(url, request.param == "plain", monkeypatch)


@pytest.mark.parametrize("server", SERVERS)
def test_trials_are_read_as_optuna_reads_them(server: str, request: pytest.FixtureRequest) -> None:
    check_reading(store_of(open_study(request.getfixturevalue(server), definition())))


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("server", SERVERS)
def test_nothing_is_written_once_the_study_is_deleted(
    server: str, plain: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = request.getfixturevalue(server)
    check_gone(open_store(url, plain, monkeypatch), successor=True)


def test_a_search_by_public_calls_is_the_same_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(name: str) -> list[Any]:
        (tmp_path / name).mkdir()
        worker = worker_at(url_in(tmp_path / name), small=True)
        assert worker.run()
        kept = ("worker", "device")
        return [
            (t.state, t.params, {k: v for k, v in t.user_attrs.items() if k not in kept}, t.values)
            for t in worker.study.get_trials(deepcopy=False)
        ]

    fast = search("fast")
    monkeypatch.setattr(tables, "difference", lambda: "moved")
    assert search("plain") == fast


def search_plainly(url: str, index: int) -> None:
    tables.difference = lambda: "moved"
    worker = worker_at(url, index=index, seconds=1e-4, small=True)
    assert type(worker.queue.store) is StudyStore
    assert worker.run()


@pytest.mark.parametrize("kind", ["sqlite", *SERVERS])
def test_processes_that_search_by_public_calls_pay_for_no_question_twice(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = url_in(tmp_path) if kind == "sqlite" else request.getfixturevalue(kind)
    processes = [CONTEXT.Process(target=search_plainly, args=(url, i)) for i in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(180)
        assert process.exitcode == 0
    assert_sound(open_study(url, definition(small=True)), small=True)
