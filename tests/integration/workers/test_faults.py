"""What goes wrong around workers: servers that stop, disks that fill."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lib.servers import Server
from optlayers.config.study import load_study
from optlayers.errors import StorageError, StorageUnavailableError
from optlayers.storage import heartbeat
from optlayers.storage.connect import open_storage, open_study
from optlayers.storage.heartbeat import host_name
from optlayers.storage.retry import RetryPolicy
from optlayers.storage.store import store_of
from optlayers.trials.record import read_records
from optlayers.workers import heldout as holdout
from optlayers.workers import once
from tests.helpers.demo_search import search, start, trials, write_replay
from tests.helpers.replay import assert_sound, definition, url_in, worker_at

SMALL = definition(small=True)


def finished(url: str) -> int:
    study = open_study(url, SMALL, create=False)
    return sum(t.state.is_finished() for t in study.get_trials(deepcopy=False))


@pytest.mark.parametrize(
    ("kind", "how"), [("postgres", signal.SIGKILL), ("mariadb", signal.SIGTERM)]
)
def test_workers_wait_for_a_server_that_restarts(
    kind: str, how: int, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(kind)
    with server.database() as url:
        said: list[str] = []
        workers = [
            worker_at(url, index=i, seconds=1e-3, say=said.append, small=True) for i in range(2)
        ]
        with ThreadPoolExecutor(2) as pool:
            done = [pool.submit(worker.run) for worker in workers]
            while finished(url) < 10:
                time.sleep(0.05)
            server.stop(how)
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline and not said:
                time.sleep(0.05)
            assert not any(future.done() for future in done)
            server.start()
            assert [future.result(timeout=60) for future in done] == [True, True]
        assert_sound(open_study(url, SMALL), small=True)
        assert any(text.startswith("waiting for storage") for text in said)
        assert any(text.endswith("is back") for text in said)
        assert "s3cret" not in "".join(said)


def test_a_server_that_stays_unavailable_is_an_error_in_one_line(postgres: Server) -> None:
    with postgres.database() as url:
        study = open_study(url, SMALL)
        store_of(study).retry.seconds = 1.0
        postgres.stop()
        try:
            began = time.monotonic()
            with pytest.raises(
                StorageUnavailableError, match=r"unavailable for 1 s.*run the same"
            ) as caught:
                study.get_trials()
            assert time.monotonic() - began < 10
            assert "\n" not in str(caught.value)
            assert "s3cret" not in str(caught.value)
            # One that was never there shows at once.
            with pytest.raises(StorageError, match="check that the database is up"):
                open_storage(url)
        finally:
            postgres.start()


def test_a_worker_may_wait_for_a_server_at_its_start(postgres: Server, tmp_path: Path) -> None:
    write_replay(tmp_path)
    worker = ("worker", "--replay", str(tmp_path / "replay.yaml"), "--max-minutes", "1")
    with postgres.database() as url:
        postgres.stop()
        try:
            assert start(tmp_path, *worker, url=url).wait(timeout=60) == 2
            waiting = start(tmp_path, *worker, "--wait", url=url)
            deadline = time.monotonic() + 60
            while "waiting for storage" not in (tmp_path / "err").read_text():
                assert waiting.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        finally:
            postgres.start()
        while not any(t.state.is_finished() for t in trials(url)):
            assert waiting.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        waiting.terminate()
        assert waiting.wait(timeout=20) == 130


def test_only_errors_of_an_unavailable_database_are_retried() -> None:
    policy = RetryPolicy("there")
    assert policy.call(lambda: 7) == 7
    with pytest.raises(ValueError, match="invalid literal"):
        policy.call(lambda: int("number"))


def test_a_full_disk_is_waited_out_and_nothing_is_torn(small_disk: Path) -> None:
    url = f"sqlite:///{small_disk / 'optuna.db'}"
    said: list[str] = []
    worker = worker_at(url, seconds=1e-5, say=said.append, small=True)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 400_000)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(worker.run)
        deadline = time.monotonic() + 60
        while not said:
            assert not done.done()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert "disk is full" in said[0]
        ballast.unlink()
        subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
        assert done.result(timeout=60)
    assert_sound(open_study(url, SMALL), small=True)


def test_a_full_disk_is_named_when_a_database_is_opened(small_disk: Path) -> None:
    with contextlib.suppress(OSError):
        (small_disk / "ballast").write_bytes(b"x" * 1_100_000)
    url = f"sqlite:///{small_disk / 'optuna.db'}"
    with pytest.raises(StorageError, match="its disk is full, so make room"):
        open_storage(url)
    # A worker that is started again meanwhile waits, as one that runs.
    said: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(open_storage, url, said.append, wait=True)
        deadline = time.monotonic() + 60
        while not said:
            assert not opened.done()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        (small_disk / "ballast").unlink()
        assert opened.result(timeout=60).get_all_studies() == []


def test_a_disk_that_stays_full_ends_the_worker_and_the_study_goes_on_later(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both workers are this process, so that only the heartbeats tell.
    monkeypatch.setattr(heartbeat, "GRACE_SECONDS", 2.0)
    monkeypatch.setattr(heartbeat, "HEARTBEAT_SECONDS", 0.5)
    url = f"sqlite:///{small_disk / 'optuna.db'}"
    worker = worker_at(url, seconds=1e-5, small=True)
    store_of(worker.study).retry.seconds = 1.0
    (small_disk / "ballast").write_bytes(b"x" * 400_000)
    with pytest.raises(StorageUnavailableError, match="disk is full"):
        worker.run()
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    assert worker_at(url, index=1, small=True).run()
    assert_sound(open_study(url, SMALL), small=True)


def test_a_port_that_is_taken_is_one_line_and_a_dashboard_for_others_warns(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = start(tmp_path, "dashboard", "--host", "0.0.0.0", "--port", port)
        assert done.wait(timeout=60) == 1
    shown = (tmp_path / "err").read_text().splitlines()
    warnings = [line for line in shown if line.startswith("warning: whoever reaches")]
    assert len(warnings) == 1
    assert "0.0.0.0" in warnings[0]
    lines = [x for x in shown if x.startswith("optlayers:")]
    assert len(lines) == 1
    assert "choose another --host or --port" in lines[0]


STUDY = """
name: demo
base: {model: b}
donor: {model: d}
layers: {min: 1, max: 4}
tasks: [{name: t}]
questions: {fast: 6, full: 24}
explore: {population: 4, generations: 1}
validate: {top: 1}
refine: {top: 0}
"""


DONOR = ",".join(map(str, range(16)))


def test_a_donor_that_ends_its_workers_ends_no_study(tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text(STUDY)
    write_replay(tmp_path, faults={DONOR: "exit"})
    wanted = load_study(str(tmp_path / "short.yaml"))
    study = open_study(url_in(tmp_path), wanted)
    # It has ended all but the last that it may.
    lease: dict[str, Any] = {"worker": f"{host_name()}:1:1", "token": "x", "beat": 0, "done": False}
    lease["tries"] = once.MOST_TRIES - 1
    store_of(study).put_attrs({once.KEY + "base and donor": lease})
    searching = search(tmp_path, "--study", "short.yaml", "--workers", "1")
    searching.communicate(timeout=120)
    told = (tmp_path / "err").read_text()
    assert searching.returncode == 0, told
    assert "restart in 1 s" in told
    # So the next search says at once that it is finished.
    study = open_study(url_in(tmp_path), wanted)
    assert holdout.is_checked(study, wanted, read_records(study.get_trials()), 16)
