"""Heartbeats: which workers are alive, and which running trials have lost their worker.

A worker of this machine is known by its process. A worker elsewhere is known by the heartbeats of
its trials: a trial is stale when its heartbeat does not change while the database answers, by the
clock of the observer. So differing clocks or an unavailable database make no worker look dead.
"""

from __future__ import annotations

import functools
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from optlayers.storage.retry import never_retry
from optlayers.storage.store import StudyStore

HEARTBEAT_SECONDS = 10.0
GRACE_SECONDS = 60.0
# A heartbeat that is old by the database's clock must stay unchanged for so long.
CONFIRM_SECONDS = 25.0
TICK_SECONDS = 0.5


def process_name() -> str:
    """`host:pid:start`, which no other process has, not even one with the same number later."""
    return f"{host_name()}:{os.getpid()}:{_start_time(os.getpid())}"


@functools.cache
def host_name() -> str:
    """Name of this machine; on Linux with its boot and its namespace of process numbers.

    Containers and cloned machines may share a name, and their process numbers differ in meaning.
    """
    name = socket.gethostname()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
        return f"{name}/{boot}-{os.readlink('/proc/self/ns/pid').strip('pid:[]')}"
    except OSError:
        return name


def _start_time(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rpartition(")")[2].split()
            return 0 if fields[0] in "ZX" else int(fields[19])  # a zombie is dead
    except (OSError, ValueError, IndexError):
        return 0


def process_of(worker: str) -> int:
    """The process number of a worker of this host; 0 for others."""
    host, _, rest = worker.rpartition(":")[0].rpartition(":")
    return int(rest) if host == host_name() and rest.isdecimal() else 0


def is_gone(worker: str) -> bool:
    """Whether a process of this host has ended; False for other hosts and where unknown."""
    pid, start = process_of(worker), worker.rpartition(":")[2]
    if not pid or not start.isdecimal():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    # Another start time: a later process has the number. 0: it has just ended.
    return bool(int(start) and _start_time(pid) != int(start))


@dataclass
class _Seen:
    """A heartbeat, since when (monotonic seconds) it has not changed, and its age."""

    value: str
    since: float
    age: float


class Heartbeats:
    """Renews the heartbeats of a worker's trials and observes those of all others, in a thread.

    held: the numbers of the worker's trials. on_hang: called in that thread when an evaluation
    takes longer than `allow` said.
    """

    def __init__(self, store: StudyStore) -> None:
        self.store = store
        self.held: set[int] = set()
        self.on_hang: Callable[[float], None] = lambda seconds: None
        self._seen: dict[int, _Seen] = {}
        self._observed = 0.0
        self._deadline: tuple[float, float] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the heartbeats of trials that are still held go stale."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._thread = None

    def allow(self, seconds: float | None) -> None:
        """Start the time limit of an evaluation; None: it has ended."""
        self._deadline = None if seconds is None else (time.monotonic() + seconds, seconds)

    def _run(self) -> None:
        never_retry()
        next_beat = 0.0
        while not self._stop.wait(min(TICK_SECONDS, HEARTBEAT_SECONDS)):
            now = time.monotonic()
            deadline = self._deadline
            if deadline is not None and now > deadline[0]:
                self._deadline = None
                self.on_hang(deadline[1])
            if now < next_beat:
                continue
            try:
                self.store.beat(list(self.held))
                self.observe()
                next_beat = now + HEARTBEAT_SECONDS
            except Exception:
                # The main thread meets the same database and reports it. Others could not write
                # their heartbeats either, so what was observed before counts for nothing.
                self._seen.clear()
                next_beat = now + 1.0

    def observe(self) -> None:
        """Read the heartbeats of all running trials."""
        now = time.monotonic()
        if now - self._observed > 3 * HEARTBEAT_SECONDS:
            self._seen.clear()  # this process slept, or the database was unavailable
        self._observed = now
        seen = {}
        for number, (value, age) in self.store.heartbeats().items():
            old = self._seen.get(number)
            since = old.since if old is not None and old.value == value else now
            seen[number] = _Seen(value, since, age)
        self._seen = seen

    def stale(self) -> set[int]:
        """The running trials of other workers whose heartbeats have stopped."""
        if self._thread is None:
            self.observe()
        now = self._observed
        return {
            number
            for number, seen in self._seen.items()
            if number not in self.held
            and (
                now - seen.since >= GRACE_SECONDS
                or (seen.age >= GRACE_SECONDS and now - seen.since >= CONFIRM_SECONDS)
            )
        }
