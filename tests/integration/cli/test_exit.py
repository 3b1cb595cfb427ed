"""A process that was told to end does so in time, also if no signal handler can run."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from optlayers.cli.exit import INTERRUPTED

# SQLite waits for a lock inside one call, which no signal handler can interrupt.
STUCK = """
import signal, sqlite3, sys
from optlayers.cli.exit import exit_within
for name in (signal.SIGTERM, signal.SIGALRM):
    signal.signal(name, lambda number, frame: sys.exit(7))
exit_within(0.5)
connection = sqlite3.connect(sys.argv[1], timeout=60)
print("waits", flush=True)
connection.execute("BEGIN IMMEDIATE")
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, INTERRUPTED), (signal.SIGALRM, 0)],  # a timer ends it as planned
)
def test_a_process_that_is_stuck_in_a_call_ends_in_time(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    path = tmp_path / "locked.db"
    with sqlite3.connect(path, isolation_level=None) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        stuck = subprocess.Popen(
            [sys.executable, "-c", STUCK, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert stuck.stdout is not None
        assert stuck.stdout.readline() == "waits\n"
        time.sleep(0.2)
        stuck.send_signal(number)
        assert stuck.wait(timeout=20) == code


# As a worker whose loop has seen that time is up; libraries may take a while to unload.
LEAVING = """
import time
from optlayers.cli.worker import stopped_by_signals
with stopped_by_signals(max_minutes=0.3 / 60):
    pass
time.sleep(0.6)
print("left")
"""


def test_the_timer_of_a_worker_that_has_left_does_not_kill_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVING], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "left\n", "")
