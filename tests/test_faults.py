"""What goes wrong around workers: servers that stop, disks that fill, a proxy that restarts."""

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
from optuna import load_study
from optuna.trial import FrozenTrial
from replay import definition, worker_at
from replayed import start, write_replay
from servers import Server
from soundness import assert_sound

from optlayers import liveness
from optlayers.errors import StorageAwayError, StorageError
from optlayers.patience import SERVICE, Patience, PatientProxy, limit_patience
from optlayers.storage import open_storage, open_study

SMALL = definition(small=True)


def finished(url: str) -> int:
    study = open_study(url, SMALL, create=False)
    return sum(t.state.is_finished() for t in study.get_trials(deepcopy=False))


def trials_of(url: str) -> list[FrozenTrial]:
    try:
        return load_study(study_name="demo", storage=open_storage(url)).get_trials(deepcopy=False)
    except KeyError:
        return []


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


def test_a_server_that_stays_away_is_an_error_in_one_line(postgres: Server) -> None:
    with postgres.database() as url:
        study = open_study(url, SMALL)
        limit_patience(study._storage, 1.0)
        postgres.stop()
        try:
            began = time.monotonic()
            with pytest.raises(StorageAwayError, match=r"away for 1 s.*run the same") as caught:
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
        while not any(t.state.is_finished() for t in trials_of(url)):
            assert waiting.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        waiting.terminate()
        assert waiting.wait(timeout=20) == 130


def test_patience_grows_and_ends_and_leaves_other_errors_alone() -> None:
    patience = Patience("there", seconds=60)
    assert patience.call(lambda: 7) == 7
    with pytest.raises(ValueError, match="invalid literal"):
        patience.call(lambda: int("number"))


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
    with pytest.raises(StorageError, match="its disk is full, so make room"):
        open_storage(f"sqlite:///{small_disk / 'optuna.db'}")


def test_a_disk_that_stays_full_ends_the_worker_and_the_study_goes_on_later(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both workers are this process, so that only the heartbeats tell.
    monkeypatch.setattr(liveness, "GRACE_SECONDS", 2.0)
    monkeypatch.setattr(liveness, "HEARTBEAT_SECONDS", 0.5)
    url = f"sqlite:///{small_disk / 'optuna.db'}"
    worker = worker_at(url, seconds=1e-5, small=True)
    limit_patience(worker.study._storage, 1.0)
    (small_disk / "ballast").write_bytes(b"x" * 400_000)
    with pytest.raises(StorageAwayError, match="disk is full"):
        worker.run()
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    assert worker_at(url, index=1, small=True).run()
    assert_sound(open_study(url, SMALL), small=True)


# ------------------------------------------------------------------ the proxy


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(folder: Path, port: int, url: str, *more: str) -> subprocess.Popen[str]:
    proxy = start(folder, "storage", "serve", "--port", str(port), *more, url=url)
    deadline = time.monotonic() + 60
    while f":{port}" not in (folder / "err").read_text():
        assert proxy.poll() is None, (folder / "err").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return proxy


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_proxy_that_is_told_to_end_does(tmp_path: Path, number: signal.Signals) -> None:
    proxy = serve(tmp_path, free_port(), f"sqlite:///{tmp_path / 'optuna.db'}")
    proxy.send_signal(number)
    assert proxy.wait(timeout=20) == 0
    assert "the proxy has ended" in (tmp_path / "err").read_text()


def test_workers_behind_a_proxy_that_restarts_finish_the_study(
    tmp_path: Path, postgresql_url: str
) -> None:
    port = free_port()
    proxy = serve(tmp_path, port, postgresql_url)
    url = f"grpc://127.0.0.1:{port}"
    open_study(url, SMALL)
    workers = [worker_at(url, index=i, seconds=1e-3, small=True) for i in range(2)]
    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(worker.run) for worker in workers]
        while finished(url) < 10:
            time.sleep(0.05)
        proxy.send_signal(signal.SIGKILL)
        proxy.wait()
        time.sleep(1)
        (tmp_path / "err").unlink()
        proxy = serve(tmp_path, port, postgresql_url)
        assert [future.result(timeout=90) for future in done] == [True, True]
    # The same study, seen directly.
    assert_sound(open_study(postgresql_url, SMALL), small=True)
    proxy.terminate()
    assert proxy.wait(timeout=20) == 0
    shown = (tmp_path / "err").read_text()
    assert "s3cret" not in shown
    assert "postgresql+psycopg://tester:***@127.0.0.1" in shown
    assert "warning" not in shown


def test_a_call_that_an_ending_proxy_cancels_is_made_again() -> None:
    import grpc

    tries = 0

    def answer(_request: bytes, context: Any) -> bytes:
        nonlocal tries
        tries += 1
        if tries == 1:
            context.abort(grpc.StatusCode.CANCELLED, "as where a call meets the end of a server")
        return b'"answer"'

    calls = {"swap": grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, calls),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    proxy = PatientProxy("127.0.0.1", port, Patience("there", seconds=30))
    assert proxy.ask("swap", {}) == "answer"
    assert tries == 2
    server.stop(0)


def test_a_proxy_that_others_may_reach_says_so(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    port = free_port()
    proxy = serve(tmp_path, port, url, "--host", "0.0.0.0")
    proxy.terminate()
    assert proxy.wait(timeout=20) == 0
    assert "warning: whoever reaches 0.0.0.0" in (tmp_path / "err").read_text()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("grpc://127.0.0.1:1", "nothing answers there; start `optlayers storage serve`"),
        ("grpc://me:s3cret@host:1", "without user or database"),
        ("grpc:host", "not the URL of a proxy"),
    ],
)
def test_a_proxy_that_is_not_there_is_one_line(
    url: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optlayers.storage.CONNECT_SECONDS", 0.5)
    with pytest.raises(StorageError, match=words) as caught:
        open_storage(url)
    assert "s3cret" not in str(caught.value)


def test_a_proxy_that_was_waited_for_is_no_mistake_of_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("optlayers.patience.PATIENCE_SECONDS", 0.5)
    with pytest.raises(StorageAwayError, match="nothing answers there"):
        open_storage("grpc://127.0.0.1:1", wait=True)


def test_a_port_that_is_taken_is_one_line_and_a_dashboard_for_others_warns(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for command in (["storage", "serve"], ["dashboard", "--host", "0.0.0.0"]):
            done = start(tmp_path, *command, "--port", port)
            assert done.wait(timeout=60) == 1, command
    shown = (tmp_path / "err").read_text().splitlines()
    warnings = [line for line in shown if line.startswith("warning: whoever reaches")]
    assert len(warnings) == 1
    assert "0.0.0.0" in warnings[0]
    lines = [x for x in shown if x.startswith("optlayers:")]
    assert len(lines) == 2
    assert all("choose another --host or --port" in line for line in lines)
