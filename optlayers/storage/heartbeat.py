"""Liveness: which workers are alive, and which trials are left behind by one that is not.

A worker of this machine is known by its process. One elsewhere is known by its heartbeats, which
are watched by the watcher's own clock: a trial is left behind when its heartbeat does not change
while the database answers. So neither clocks that differ nor a database that was away make the
living look dead.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.storages._rdb.models import TrialHeartbeatModel, TrialModel
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import TrialState
from sqlalchemy import func, select, update

from optlayers.storage.retry import never_wait
from optlayers.storage.transactions import backend_of

HEARTBEAT_SECONDS = 10.0
GRACE_SECONDS = 60.0
# A heartbeat that the database says is old is watched for so long before it is believed.
CONFIRM_SECONDS = 25.0
TICK_SECONDS = 0.5
BEAT = "optlayers:beat"


def process_name() -> str:
    """`host:pid:start`, which tells this process from any other, also after its death."""
    return f"{host_name()}:{os.getpid()}:{_start_of(os.getpid())}"


@functools.cache
def host_name() -> str:
    """Name of this machine; on Linux with its boot and its space of process numbers.

    Containers and cloned machines may share a name, and a process number means nothing across.
    """
    name = socket.gethostname()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
        return f"{name}/{boot}-{os.readlink('/proc/self/ns/pid').strip('pid:[]')}"
    except OSError:
        return name


def _start_of(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 where there is none such."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rpartition(")")[2].split()
            # A dead process that its parent has not asked after is as gone as any.
            return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return 0


def process_of(worker: str) -> int:
    """The process number of a worker of this host; 0 for others."""
    host, _, rest = worker.rpartition(":")[0].rpartition(":")
    return int(rest) if host == host_name() and rest.isdecimal() else 0


def is_gone(worker: str) -> bool:
    """Whether that process of this host has ended; False for other hosts and where unknown."""
    try:
        host, pid, start = worker.rsplit(":", 2)
        number, started = int(pid), int(start)
    except ValueError:
        return False
    if host != host_name():
        return False
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    # Another start: the number was given again. None: it is dead already.
    return bool(started and _start_of(number) != started)


def beat(storage: BaseStorage, trial_ids: Iterable[int]) -> None:
    """Renew the heartbeats of trials, in one commit."""
    ids = sorted(trial_ids)
    backend = backend_of(storage)
    if backend is None:
        for trial_id in ids:
            # One that has ended in the meantime needs no beat.
            with contextlib.suppress(UpdateFinishedTrialError, KeyError):
                storage.set_trial_system_attr(trial_id, BEAT, time.time())
        return
    if ids:
        with _create_scoped_session(backend.scoped_session) as session:
            session.execute(
                update(TrialHeartbeatModel)
                .where(TrialHeartbeatModel.trial_id.in_(ids))
                .values(heartbeat=func.now())
                .execution_options(synchronize_session=False)
            )


def heartbeats(storage: BaseStorage, study_id: int) -> dict[int, tuple[str, float]]:
    """Of every RUNNING trial its heartbeat, as a text that changes, and its age in seconds.

    The age is by the database's clock; 0 where the storage has none.
    """
    backend = backend_of(storage)
    if backend is None:
        running = storage.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
        return {t._trial_id: (str(t.system_attrs.get(BEAT)), 0.0) for t in running}
    found = {}
    with _create_scoped_session(backend.scoped_session) as session:
        rows = session.execute(
            select(TrialModel.trial_id, TrialHeartbeatModel.heartbeat, func.now())
            .outerjoin(TrialHeartbeatModel, TrialHeartbeatModel.trial_id == TrialModel.trial_id)
            .where(TrialModel.study_id == study_id, TrialModel.state == TrialState.RUNNING)
        )
        for trial_id, last, now in rows:
            age = 0.0
            if isinstance(last, datetime.datetime) and isinstance(now, datetime.datetime):
                age = (now.replace(tzinfo=None) - last).total_seconds()
            found[int(trial_id)] = (str(last), age)
    return found


@dataclass
class _Seen:
    """A heartbeat, since when (monotonic seconds) it has not changed here, and its age."""

    value: str
    since: float
    age: float


class Heart:
    """Beats for the trials that a worker holds, and watches the heartbeats of all others.

    `hung` is called, in the heart's own thread, when an evaluation lasts longer than was allowed
    by `expect`.
    """

    def __init__(self, storage: BaseStorage, study_id: int) -> None:
        self.storage = storage
        self.study_id = study_id
        self.held: set[int] = set()
        self.hung: Callable[[float], None] = lambda seconds: None
        self._seen: dict[int, _Seen] = {}
        self._looked = 0.0
        self._deadline: tuple[float, float] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, in the background."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; trials that are still held are left behind."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._thread = None

    def expect(self, seconds: float | None) -> None:
        """An evaluation begins that may last so long; None: it is over."""
        self._deadline = None if seconds is None else (time.monotonic() + seconds, seconds)

    def _run(self) -> None:
        never_wait()
        next_beat = 0.0
        while not self._stop.wait(min(TICK_SECONDS, HEARTBEAT_SECONDS)):
            now = time.monotonic()
            deadline = self._deadline
            if deadline is not None and now > deadline[0]:
                self._deadline = None
                self.hung(deadline[1])
            if now < next_beat:
                continue
            try:
                beat(self.storage, list(self.held))
                self.look()
                next_beat = now + HEARTBEAT_SECONDS
            except Exception:
                # The main loop meets the same database and says what is wrong with it. What was
                # seen before says nothing of workers that could not write either.
                self._seen.clear()
                next_beat = now + 1.0

    def look(self) -> None:
        """Look at the heartbeats of all running trials."""
        now = time.monotonic()
        if now - self._looked > 3 * HEARTBEAT_SECONDS:
            self._seen.clear()  # this process slept, or the database was away
        self._looked = now
        seen = {}
        for trial_id, (value, age) in heartbeats(self.storage, self.study_id).items():
            old = self._seen.get(trial_id)
            since = old.since if old is not None and old.value == value else now
            seen[trial_id] = _Seen(value, since, age)
        self._seen = seen

    def left_behind(self) -> set[int]:
        """The running trials, held by none here, whose heartbeats have stopped."""
        if self._thread is None:
            self.look()
        now = self._looked
        return {
            trial_id
            for trial_id, seen in self._seen.items()
            if trial_id not in self.held
            and (
                now - seen.since >= GRACE_SECONDS
                or (seen.age >= GRACE_SECONDS and now - seen.since >= CONFIRM_SECONDS)
            )
        }
