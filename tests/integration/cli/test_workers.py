"""Workers as the command line starts them: placed, restarted, stopped, out of time."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from benchmarks.lib.servers import PASSWORD
from optlayers.storage.connect import open_storage
from optlayers.trials import keys
from tests.helpers.demo_search import children, search, start, trials, write_replay


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def wait_for_trials(url: str, count: int) -> None:
    wait_for(lambda: sum(t.state.is_finished() for t in trials(url)) >= count)


def test_a_killed_worker_is_started_again_and_ctrl_c_returns_all_claims(tmp_path: Path) -> None:
    write_replay(tmp_path, seconds=2e-2)  # a cohort lasts seconds
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    searching = search(tmp_path, "--workers", "2")
    wait_for_trials(url, 4)
    first = children(searching.pid)
    assert len(first) == 2
    os.kill(first[0], signal.SIGKILL)
    deadline = time.monotonic() + 30
    while len(set(children(searching.pid)) - {first[0]}) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert "worker" in (tmp_path / "err").read_text()
    assert "signal 9" in (tmp_path / "err").read_text()
    workers = children(searching.pid)
    wait_for(lambda: any(t.state == TrialState.RUNNING for t in trials(url)))
    began = time.monotonic()
    searching.send_signal(signal.SIGINT)
    assert searching.wait(timeout=20) == 130
    assert time.monotonic() - began < 10
    assert "interrupted; run the same command again" in (tmp_path / "err").read_text()
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    found = trials(url)
    assert TrialState.RUNNING not in {t.state for t in found}
    assert any(t.state == TrialState.WAITING for t in found)
    for trial in found:
        if keys.SCORE in trial.user_attrs:
            host, pid, _ = trial.user_attrs[keys.WORKER].rsplit(":", 2)
            assert host
            assert int(pid) in {*first, *workers}
            assert trial.user_attrs[keys.DEVICE] == "replay"


@pytest.mark.parametrize("command", ["search", "worker"])
def test_a_hang_up_returns_all_claims(tmp_path: Path, command: str) -> None:
    write_replay(tmp_path, seconds=0.1)  # a cohort lasts a minute
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    more = ("--workers", "1", "--devices", "cpu") if command == "search" else ()
    process = start(tmp_path, command, "--replay", str(tmp_path / "replay.yaml"), *more)
    wait_for(lambda: any(t.state == TrialState.RUNNING for t in trials(url)))
    began = time.monotonic()
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=20) == 130, (tmp_path / "err").read_text()
    assert time.monotonic() - began < 10
    states = {t.state for t in trials(url)}
    assert TrialState.RUNNING not in states
    assert TrialState.WAITING in states


@pytest.mark.parametrize("command", ["search", "worker"])
def test_what_runs_in_a_terminal_that_is_closed_returns_its_claims(
    tmp_path: Path, command: str
) -> None:
    write_replay(tmp_path, seconds=0.1)
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    terminal, end = os.openpty()
    more = ("--workers", "1", "--devices", "cpu") if command == "search" else ()
    process = subprocess.Popen(
        [sys.executable, "-m", "optlayers", command, "--replay", "replay.yaml", *more],
        cwd=tmp_path,
        env={**os.environ, "OPTLAYERS_STORAGE": url},
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(end)
    shown = threading.Thread(target=drain, args=(terminal, stop := threading.Event()))
    shown.start()
    wait_for(lambda: any(t.state == TrialState.RUNNING for t in trials(url)))
    stop.set()
    shown.join()
    os.close(terminal)
    # The live view of a search may be in the middle of a drawing.
    assert process.wait(timeout=20) in ((1, 130) if command == "search" else (130,))
    states = {t.state for t in trials(url)}
    assert TrialState.RUNNING not in states
    assert TrialState.WAITING in states


def drain(terminal: int, stop: threading.Event) -> None:
    """Read what a terminal is sent, so that writing to it never waits."""
    while not stop.is_set():
        if select.select([terminal], [], [], 0.1)[0]:
            os.read(terminal, 4096)


def test_under_nohup_a_hang_up_stays_ignored(tmp_path: Path) -> None:
    write_replay(tmp_path, seconds=1e-3)
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    replay = str(tmp_path / "replay.yaml")
    worker = start(tmp_path, "worker", "--replay", replay, by=("nohup",))
    wait_for_trials(url, 4)
    worker.send_signal(signal.SIGHUP)
    assert worker.wait(timeout=60) == 0
    assert "the study is done" in (tmp_path / "err").read_text()
    assert len(trials(url)) > 100


def test_workers_leave_when_the_search_that_started_them_is_killed(tmp_path: Path) -> None:
    write_replay(tmp_path, seconds=0.1)  # a cohort lasts a minute
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    searching = search(tmp_path, "--workers", "1")
    wait_for(lambda: any(t.state == TrialState.RUNNING for t in trials(url)))
    workers = children(searching.pid)
    assert workers
    searching.kill()
    searching.wait()
    deadline = time.monotonic() + 15
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    states = {t.state for t in trials(url)}
    assert TrialState.RUNNING not in states
    assert TrialState.WAITING in states


def test_max_minutes_ends_workers_in_the_middle_of_a_cohort(tmp_path: Path) -> None:
    write_replay(tmp_path, seconds=0.1)  # a cohort lasts a minute
    searching = search(tmp_path, "--workers", "1", "--max-minutes", "0.1")
    began = time.monotonic()
    assert searching.wait(timeout=60) == 0
    assert time.monotonic() - began < 25
    assert "time is up; run the same command again" in (tmp_path / "err").read_text()
    states = {t.state for t in trials(f"sqlite:///{tmp_path / 'optuna.db'}")}
    assert TrialState.RUNNING not in states
    assert TrialState.WAITING in states


@pytest.mark.parametrize("command", ["search", "worker"])
@pytest.mark.parametrize("how", ["study", "file"])
def test_workers_of_a_study_that_is_gone_end_with_one_line(
    tmp_path: Path, command: str, how: str
) -> None:
    write_replay(tmp_path, seconds=1e-3)
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    more = ("--workers", "1", "--devices", "cpu") if command == "search" else ()
    process = start(tmp_path, command, "--replay", str(tmp_path / "replay.yaml"), *more)
    wait_for_trials(url, 4)
    if how == "study":
        optuna.delete_study(study_name="demo", storage=open_storage(url))
    else:
        for path in tmp_path.glob("optuna.db*"):
            path.unlink()
    assert process.wait(timeout=60) == 1
    told = [x for x in (tmp_path / "err").read_text().splitlines() if x.startswith("optlayers:")]
    assert len(told) == 1
    assert told[0].startswith(f"optlayers: study 'demo' is no longer in {url}: it was deleted")
    assert "restart" not in (tmp_path / "err").read_text()
    assert trials(url) == []


def test_a_worker_without_time_leaves_at_once(tmp_path: Path) -> None:
    write_replay(tmp_path)
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    worker = ("worker", "--replay", str(tmp_path / "replay.yaml"), "--max-minutes", "0")
    assert start(tmp_path, *worker, url=url).wait(timeout=60) == 0
    told = (tmp_path / "err").read_text()
    assert "time is up" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("fault", ["raise", "exit"])
def test_a_set_that_ends_its_workers_is_given_up_and_the_search_is_finished(
    tmp_path: Path, fault: str
) -> None:
    write_replay(tmp_path, faults={"10": fault})  # among the first that are asked
    searching = search(tmp_path, "--workers", "2")
    out, _ = searching.communicate(timeout=120)
    err = (tmp_path / "err").read_text()
    assert searching.returncode == 0, err
    assert "restart in" in err
    rows = json.loads(out)
    assert rows[0]["layers"] == [0, 10, 11, 15]
    assert [10] not in [row["layers"] for row in rows]
    failed = [
        t
        for t in trials(f"sqlite:///{tmp_path / 'optuna.db'}")
        if t.state == TrialState.FAIL and t.user_attrs[keys.LAYERS] == "10"
    ]
    reasons = [t.user_attrs[keys.REASON] for t in failed]
    assert len([r for r in reasons if "4 tries" in r]) == 1
    if fault == "raise":
        assert "the evaluation of 10 broke down" in reasons[-1]


def test_a_worker_that_hangs_ends_itself_and_others_take_over(tmp_path: Path) -> None:
    write_replay(tmp_path, faults={"10": "hang"})
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    replay = str(tmp_path / "replay.yaml")
    worker = ("worker", "--replay", replay, "--hang-minutes", "0.01")
    for turn in range(4):
        hanging = start(tmp_path, *worker, url=url)
        assert hanging.wait(timeout=60) == 1, turn
    assert "did not end within 1 s; the worker ends" in (tmp_path / "err").read_text()
    assert start(tmp_path, *worker, url=url).wait(timeout=60) == 0
    found = trials(url)
    assert not any(t.state in (TrialState.RUNNING, TrialState.WAITING) for t in found)
    hung = [t for t in found if t.user_attrs[keys.LAYERS] == "10"]
    assert {t.state for t in hung} == {TrialState.FAIL}
    assert "did not end within" in hung[-1].user_attrs[keys.REASON]


def test_a_password_is_in_no_process_list_and_in_nothing_that_is_shown(
    tmp_path: Path, postgresql_url: str
) -> None:
    write_replay(tmp_path)
    searching = search(tmp_path, "--workers", "2", url=postgresql_url)
    deadline = time.monotonic() + 60
    seen: set[int] = set()
    while len(seen) < 2:
        assert time.monotonic() < deadline
        seen |= set(children(searching.pid))
    for pid in [searching.pid, *seen]:
        assert PASSWORD not in Path(f"/proc/{pid}/cmdline").read_text()
    out, _ = searching.communicate(timeout=120)
    assert searching.returncode == 0
    assert json.loads(out)[0]["layers"] == [0, 10, 11, 15]
    shown = (tmp_path / "err").read_text()
    wrong = postgresql_url.replace(PASSWORD, f"{PASSWORD}x")
    for arguments in (["status"], ["--debug", "status"]):
        for url in (postgresql_url, wrong):
            done = start(tmp_path, *arguments, url=url)
            shown += done.communicate(timeout=60)[0]
            assert done.returncode == (2 if url == wrong else 0)
    # Given as no option, it is still a URL; a driver may quote it in pieces.
    for arguments in (["status", wrong], ["status", "--storage", wrong.replace("@", "@x@")]):
        assert start(tmp_path, *arguments).wait(timeout=60) == 2
    shown += (tmp_path / "err").read_text()
    assert "password authentication failed" in shown
    assert "Got unexpected extra argument" in shown
    assert "more than one at sign before the host" in shown
    assert PASSWORD not in shown
    attrs = [t.user_attrs for t in trials(postgresql_url)]
    assert PASSWORD not in repr(attrs)
