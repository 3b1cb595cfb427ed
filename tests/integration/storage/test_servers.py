"""Servers that are empty, that refuse for a while, and their limits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.lib.forked_worker import CONTEXT
from benchmarks.lib.servers import PASSWORD, Postgres, Server
from optlayers.config.study import StudyDefinition, parse_study
from optlayers.errors import StorageError, StorageUnavailableError, StudyGoneError
from optlayers.evaluation.base import Evaluator
from optlayers.evaluation.questions import Subject, order_questions
from optlayers.layerset import LayerSet
from optlayers.results.view import StudyView
from optlayers.search import as_stored, pruner_for
from optlayers.storage.connect import open_storage, open_study
from optlayers.storage.guard import IDENTITY
from optlayers.storage.store import store_of
from optlayers.trials import keys
from optlayers.trials.answers import Answers
from optlayers.workers.worker import Worker
from tests.helpers.replay import N_LAYERS, Counting, assert_sound, definition, url_in, worker_at
from tests.helpers.storage_suite import assert_gone, new

SERVERS = ["postgres", "mariadb"]


# ------------------------------------------------------------------ an empty database


def create(url: str, index: int, barrier: Any, found: Any) -> None:
    definition()
    barrier.wait(60)
    try:
        store = store_of(open_study(url, definition()))
        store.study.set_user_attr("n_layers", N_LAYERS)  # as each worker does at its start
        first = store.swap_attr("turn", None, index)
        store.insert_running([new(index % N_LAYERS)], unique="layers")
        found.put((store.attrs()[IDENTITY], first))
    except BaseException as error:
        found.put((error, None))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql_url", "mysql_url"])
def test_twelve_processes_that_find_a_database_empty_get_one_study(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = url_in(tmp_path) if kind == "sqlite" else request.getfixturevalue(kind)
    barrier, results = CONTEXT.Barrier(12), CONTEXT.Queue()
    processes = [CONTEXT.Process(target=create, args=(url, i, barrier, results)) for i in range(12)]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    assert {type(identity) for identity, _ in found} == {str}, found
    assert len({identity for identity, _ in found}) == 1
    assert sum(first for _, first in found) == 1
    trials = open_study(url, definition()).get_trials()
    assert [trial.number for trial in trials] == list(range(N_LAYERS))


# ------------------------------------------------------------------ limits


class Large(Evaluator):
    """Many questions of every kind, half of them held out, answered at random."""

    def __init__(self, wanted: StudyDefinition, real: bool) -> None:
        subjects = [Subject(f"subject {i}", 2_000, 1.0) for i in range(100)]
        self.n_layers, self.order, self.real = 20, order_questions(subjects, wanted.questions), real
        self.rng = np.random.default_rng(0)

    def _answers(self, sets: Sequence[LayerSet], count: int) -> list[Answers]:
        values = [self.rng.random(count) for _ in sets]
        return [as_stored(v) if self.real else v < 0.5 for v in values]

    def evaluate(self, layer_sets: Sequence[LayerSet], start: int, stop: int) -> list[Answers]:
        return self._answers(layer_sets, stop - start)

    def held_out(self, layer_sets: Sequence[LayerSet]) -> list[Answers]:
        return self._answers(layer_sets, len(self.order.held_subject))


LARGE = f"""
name: {"n" * 100}
base: {{model: b}}
donors: [{{model: c, name: {"c" * 30}}}, {{model: d, name: {"d" * 30}}}]
layers: {{min: 19, max: 20}}
tasks: [{{name: t}}]
questions: {{fast: 2, full: null, holdout: 0.5}}
explore: {{population: 2, generations: 1}}
validate: {{top: 1}}
refine: {{top: 0}}
"""


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("kind", ["sqlite", "postgresql_url", "mysql_url"])
def test_every_database_keeps_the_largest_study(
    kind: str, real: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = url_in(tmp_path) if kind == "sqlite" else request.getfixturevalue(kind)
    wanted = parse_study(LARGE, "large.yaml", tmp_path)
    evaluator = Large(wanted, real)
    study = open_study(url, wanted, pruner=pruner_for(wanted, evaluator.order.n_fast))
    assert Worker(wanted, study, evaluator).run()
    # As another process reads it.
    view = StudyView.of(wanted, open_study(url, wanted, create=False))
    assert view.phase == "done"
    assert [score.questions for score in view.held_out] == [100_000] * 4  # rank 1, base, donors
    [best] = [r for r in view.records if r.is_full]
    assert best.answers is not None
    assert len(best.answers) == 100_000
    assert study.user_attrs[keys.QUESTION_STRATA] == evaluator.order.subject.tolist()


# ------------------------------------------------------------------ refusals


@contextlib.contextmanager
def as_guest(server: Server, password: str = PASSWORD) -> Iterator[str]:
    """A URL of a user without the rights of an administrator, who would be let in all the same."""
    if isinstance(server, Postgres):
        user, rights = "guest", "ALTER DATABASE {} OWNER TO guest"
        server.execute(f"CREATE USER guest PASSWORD '{password}'")
    else:
        user, rights = "guest@'127.0.0.1'", "GRANT ALL ON {}.* TO guest@'127.0.0.1'"
        server.execute(f"CREATE USER guest@'127.0.0.1' IDENTIFIED BY '{password}'")
    try:
        with server.database() as url:
            server.execute(rights.format(url.rpartition("/")[2]))
            yield url.replace(f"tester:{PASSWORD}", f"guest:{password}")
    finally:
        server.execute(f"DROP USER {user}")


CUT_OFF = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'guest'"


def only_reads(server: Server, on: bool) -> None:
    """As a replica, before it takes over."""
    if isinstance(server, Postgres):
        server.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if on else 'off'}")
        server.execute("SELECT pg_reload_conf()")
    else:
        server.execute(f"SET GLOBAL read_only = {int(on)}")


_held: list[Any] = []


def takes_nobody(server: Server, on: bool) -> None:
    """As when all connections are in use."""
    if isinstance(server, Postgres):
        server.execute(f"ALTER ROLE guest CONNECTION LIMIT {0 if on else -1}")
        server.execute(CUT_OFF)
    elif on:
        import pymysql

        where = {"host": "127.0.0.1", "port": server.port, "user": "tester", "password": PASSWORD}
        _held.extend(pymysql.connect(**where) for _ in range(12))
        server.execute("SET GLOBAL max_connections = 10")
        _held[0].cursor().execute("KILL CONNECTION USER guest")
    else:
        while _held:
            _held.pop().close()
        server.execute("SET GLOBAL max_connections = 200")


REFUSALS: list[Callable[[Server, bool], None]] = [only_reads, takes_nobody]


@pytest.mark.parametrize("refuse", REFUSALS)
@pytest.mark.parametrize("kind", SERVERS)
def test_workers_wait_while_a_server_refuses_and_ask_nothing_twice(
    kind: str, refuse: Callable[[Server, bool], None], request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(kind)
    said: list[str] = []
    with as_guest(server) as url, ThreadPoolExecutor(3) as pool:
        worker = worker_at(url, say=said.append, small=True)
        counting = Counting()
        counting.seconds = 3e-3
        worker.evaluator = counting
        done = pool.submit(worker.run)
        try:
            deadline = time.monotonic() + 30
            while not counting.asked:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            refuse(server, True)
            while not said:
                assert not done.done(), done.result()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            # One that starts now waits as well: the URL is right, since the server answers.
            if refuse is takes_nobody:  # who only reads can ask again
                with pytest.raises(StorageUnavailableError, match="run the same command again"):
                    open_storage(url, create=False)
            # As a worker that `search` starts again.
            again = pool.submit(open_storage, url, create=False, wait=True)
            wanted = definition().model_copy(update={"name": "another"})
            other = pool.submit(open_study, url, wanted)
            time.sleep(1)
            assert not other.done()
        finally:
            refuse(server, False)
        assert done.result(timeout=60)
        assert other.result(timeout=60).study_name == "another"
        assert len(again.result(timeout=60).get_all_studies()) == 2
        assert said[0].startswith("waiting for storage")
        assert said[-1].endswith("is back")
        assert PASSWORD not in "".join(said)
        assert set(counting.asked.values()) == {1}
        assert_sound(worker.study, small=True)


# ------------------------------------------------------------------ replaced databases, passwords


@pytest.mark.parametrize("kind", SERVERS)
def test_nothing_is_written_to_a_database_that_was_made_anew(
    kind: str, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(kind)
    with server.database() as url:
        store = store_of(open_study(url, definition()))
        name = url.rpartition("/")[2]
        store.storage.engine.dispose()  # type: ignore[attr-defined]
        server.execute(f"DROP DATABASE {name}")
        server.execute(f"CREATE DATABASE {name}")
        with pytest.raises(StudyGoneError, match="is no longer in"):
            store.put_attrs({"a": 1})
        other = store_of(open_study(url, definition()))
        assert_gone(store)
        assert other.study.get_trials() == []


@pytest.mark.parametrize("kind", SERVERS)
def test_a_password_with_braces_is_taken_as_it_is_and_never_shown(
    kind: str, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(kind)
    secret = "s3{0}cret{{x}}"
    with as_guest(server, secret) as url:
        open_study(url, definition())
        wrong = url.replace(secret, secret[:-1])
        with pytest.raises(StorageError, match="guest") as caught:
            open_storage(wrong)
    assert caught.value.exit_code == 2
    assert not any(part in str(caught.value) for part in ("s3", "cret", "{"))
