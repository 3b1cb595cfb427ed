"""A process that was told to end does so in time, also if no signal handler can run."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from optlayers.cli.exit import INTERRUPTED

# SQLite waits for a lock inside one call, which no signal handler can interrupt.
STUCK = """
import signal, sqlite3, sys
from optlayers.cli.exit import exit_within
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))
exit_within(0.5)
connection = sqlite3.connect(sys.argv[1], timeout=60)
print("waits", flush=True)
connection.execute("BEGIN IMMEDIATE")
"""


def test_a_process_that_is_stuck_in_a_call_ends_in_time(tmp_path: Path) -> None:
    path = tmp_path / "locked.db"
    with sqlite3.connect(path, isolation_level=None) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        stuck = subprocess.Popen(
            [sys.executable, "-c", STUCK, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert stuck.stdout is not None
        assert stuck.stdout.readline() == "waits\n"
        time.sleep(0.2)
        stuck.send_signal(signal.SIGTERM)
        assert stuck.wait(timeout=20) == INTERRUPTED
