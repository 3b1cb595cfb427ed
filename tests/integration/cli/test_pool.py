"""The pool that restarts local workers; scripts stand in for the workers."""

from __future__ import annotations

import functools
import sys
import time
from pathlib import Path

import pytest

from optlayers.cli.local_workers import MAX_RESTARTS, Pool, Resources, WorkerProcess
from optlayers.errors import InputError, RunError

CPU = Resources("cpu", 1)


def pool_of(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str, workers: int = 1) -> Pool:
    """A pool whose workers are a shell script."""
    program = folder / "worker"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    found = Pool([WorkerProcess(["worker"], CPU) for _ in range(workers)], {})
    found.start()
    return found


def wait_for_end(found: Pool) -> None:
    for worker in found.workers:
        if worker.process is not None:
            worker.process.wait(timeout=10)


def test_a_worker_that_crashes_is_restarted_with_a_growing_delay_and_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = pool_of(tmp_path, monkeypatch, "echo optlayers: the device has left >&2; exit 1")
    [worker] = found.workers
    delays = []
    for _ in range(MAX_RESTARTS):
        wait_for_end(found)
        before = time.monotonic()
        assert found.watch()
        assert worker.process is None
        delays.append(round(worker.start_at - before))
        assert found.watch()
        assert worker.process is None, "it was restarted too early"
        worker.start_at = 0.0
        assert found.watch()
    assert delays == [1, 2, 4, 8, 16]
    assert found.notes[0] == "worker 0 ended (exit code 1: the device has left); restart in 1 s"
    wait_for_end(found)
    with pytest.raises(RunError, match=r"worker 0 failed 6 times .* exit code 1: the device has"):
        found.watch()


def test_the_error_of_a_worker_is_reported_once_and_not_as_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = pool_of(
        tmp_path, monkeypatch, "echo loading >&2; echo optlayers: no such model >&2; exit 2"
    )
    wait_for_end(found)
    time.sleep(0.2)
    assert found.workers[0].state == "loading"
    with pytest.raises(InputError, match=r"^no such model$"):
        found.watch()


def test_after_a_result_the_restarts_are_counted_from_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = pool_of(tmp_path, monkeypatch, "kill -9 $$")
    [worker] = found.workers
    for _ in range(2 * MAX_RESTARTS):
        wait_for_end(found)
        assert worker.process is not None
        assert found.watch(functools.partial(set, [worker.process.pid]))
        assert worker.restarts == 1
        worker.start_at = 0.0
        assert found.watch()
    assert "signal 9" in found.notes[0]
    found.stop()


def test_a_mistake_of_the_user_ends_the_pool_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = pool_of(tmp_path, monkeypatch, "echo optlayers: no such model >&2; exit 2")
    wait_for_end(found)
    with pytest.raises(InputError, match=r"^no such model$"):
        found.watch()


def test_workers_that_do_not_leave_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optlayers.cli.local_workers.STOP_SECONDS", 0.3)
    found = pool_of(tmp_path, monkeypatch, "trap '' TERM; while :; do sleep 0.05; done", workers=2)
    time.sleep(0.2)
    began = time.monotonic()
    found.stop()
    assert time.monotonic() - began < 5
    codes = [worker.process.returncode for worker in found.workers if worker.process is not None]
    assert codes == [-9, -9]


def test_what_lies_in_the_users_folder_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "re.py").write_text("raise SystemExit('a file of the user')\n")
    monkeypatch.chdir(tmp_path)
    found = Pool([WorkerProcess(["studies"], CPU)], {})
    found.start()
    [worker] = found.workers
    assert worker.process is not None
    assert worker.process.wait(timeout=60) == 0, list(worker.lines)
