"""The pool that looks after local workers, with programs that end as workers do."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from optlayers.cli.pool import MAX_RESTARTS, Pool, Slot
from optlayers.errors import InputError, RunError


def pool_of(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str, workers: int = 1) -> Pool:
    """A pool whose workers are a shell script."""
    program = folder / "worker"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    found = Pool([Slot(["worker"], "cpu") for _ in range(workers)], {})
    found.start()
    return found


def wait_for_end(found: Pool) -> None:
    for slot in found.slots:
        if slot.process is not None:
            slot.process.wait(timeout=10)


def test_a_worker_that_crashes_is_restarted_with_a_growing_delay_and_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = pool_of(tmp_path, monkeypatch, "echo optlayers: the device has left >&2; exit 1")
    [slot] = found.slots
    delays = []
    for _ in range(MAX_RESTARTS):
        wait_for_end(found)
        before = time.monotonic()
        assert found.watch()
        assert slot.process is None
        delays.append(round(slot.begin_at - before))
        assert found.watch()
        assert slot.process is None, "it was started again before its time"
        slot.begin_at = 0.0
        assert found.watch()
    assert delays == [1, 2, 4, 8, 16]
    assert found.notes[0] == "worker 0 ended (exit code 1: the device has left); again in 1 s"
    wait_for_end(found)
    with pytest.raises(RunError, match=r"worker 0 failed 6 times .* exit code 1: the device has"):
        found.watch()


def test_the_error_of_a_worker_is_told_once_and_not_as_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = pool_of(
        tmp_path, monkeypatch, "echo loading >&2; echo optlayers: no such model >&2; exit 2"
    )
    wait_for_end(found)
    time.sleep(0.2)
    assert found.slots[0].state == "loading"
    with pytest.raises(InputError, match=r"^no such model$"):
        found.watch()


def test_a_worker_that_has_told_a_result_is_counted_from_none_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = pool_of(tmp_path, monkeypatch, "kill -9 $$")
    [slot] = found.slots
    for _ in range(2 * MAX_RESTARTS):
        wait_for_end(found)
        assert slot.process is not None
        assert found.watch(told={slot.process.pid})
        assert slot.restarts == 1
        slot.begin_at = 0.0
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


def test_workers_that_do_not_leave_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optlayers.cli.pool.STOP_SECONDS", 0.3)
    found = pool_of(tmp_path, monkeypatch, "trap '' TERM; while :; do sleep 0.05; done", workers=2)
    time.sleep(0.2)
    began = time.monotonic()
    found.stop()
    assert time.monotonic() - began < 5
    codes = [slot.process.returncode for slot in found.slots if slot.process is not None]
    assert codes == [-9, -9]


def test_what_lies_in_the_users_folder_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "re.py").write_text("raise SystemExit('a file of the user')\n")
    monkeypatch.chdir(tmp_path)
    found = Pool([Slot(["studies"], "cpu")], {})
    found.start()
    [slot] = found.slots
    assert slot.process is not None
    assert slot.process.wait(timeout=60) == 0, list(slot.lines)
