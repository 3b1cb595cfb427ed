"""One-time jobs: work for a whole study that one worker does while the others wait for it.

A lease in the study's attributes says who does a job; its worker renews it while it works. The
lease of a worker that has ended is taken over: at once on the same host, and on another host when
it has not changed for a while by the clock of the worker that waits.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import optuna

from optlayers.errors import TimeUp
from optlayers.storage.heartbeat import GRACE_SECONDS, HEARTBEAT_SECONDS, is_gone
from optlayers.storage.retry import never_retry
from optlayers.storage.store import StudyStore, store_of

KEY = "turn:"
POLL = 0.5  # seconds
# A job whose workers end, again and again, is given up after so many.
MOST_TRIES = 4
# How long a worker that must stop tries to return its lease.
LEAVE_SECONDS = 3.0

# The keys worker, token, tries, beat and done.
Lease = Mapping[str, Any]


def do_once(
    study: optuna.Study,
    worker: str,
    jobs: Mapping[str, Callable[[], None]],
    *,
    end: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Return when every job is done, by this worker or by another.

    The names of `jobs` mean the same to all workers of the study. An exception returns the lease,
    so that another worker may try; after `MOST_TRIES` the job is given up, and `say` is called.
    Raises `TimeUp` where other workers are not done at `end` (monotonic seconds).
    """
    store, left, watch = store_of(study), dict(jobs), _Watch()
    while left:
        leases = watch.read(store, left)
        for name, do in list(left.items()):
            lease = leases.get(name)
            if lease is not None and lease["done"]:
                del left[name]
                if lease["tries"] > MOST_TRIES:
                    say(f"{name} is given up: it ended {MOST_TRIES} workers")
            elif lease is None or not lease["worker"] or watch.is_lost(name, lease):
                tries = 1 if lease is None else lease["tries"] + bool(lease["worker"])
                mine: Lease = {
                    "worker": worker,
                    "token": uuid.uuid4().hex,
                    "tries": tries,
                    "beat": 0,
                    "done": tries > MOST_TRIES,
                }
                if store.swap_attr(KEY + name, lease, mine):
                    if not mine["done"]:
                        _do(store, name, do, mine["token"])
                    break  # the other leases were read before the work
        else:
            if left and end is not None and time.monotonic() > end:
                raise TimeUp
            if left:
                time.sleep(POLL)


def are_done(study: optuna.Study, names: Iterable[str]) -> bool:
    """Whether each of these jobs is done, or given up."""
    leases = _read(store_of(study))
    return all(name in leases and leases[name]["done"] for name in names)


class _Watch:
    """Since when (monotonic seconds) each lease has not changed, by this worker's clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Lease | None, float]] = {}
        self._read = 0.0

    def read(self, store: StudyStore, names: Iterable[str]) -> dict[str, Lease]:
        """The leases as they are now."""
        leases = _read(store)
        now = time.monotonic()
        if now - self._read > 3 * HEARTBEAT_SECONDS:
            self._seen.clear()  # the database was unavailable, or this process worked or slept
        self._read = now
        for name in names:
            old = self._seen.get(name)
            if old is None or old[0] != leases.get(name):
                self._seen[name] = (leases.get(name), now)
        return leases

    def is_lost(self, name: str, lease: Lease) -> bool:
        """Whether the worker of that lease has ended."""
        return is_gone(lease["worker"]) or self._read - self._seen[name][1] >= GRACE_SECONDS


def _do(store: StudyStore, name: str, do: Callable[[], None], token: str) -> None:
    """Do a job and renew its lease meanwhile."""
    stop = threading.Event()

    def renew() -> None:
        never_retry()
        while not stop.wait(HEARTBEAT_SECONDS):
            # While the database is unavailable, the others cannot read the lease either.
            with contextlib.suppress(Exception):
                if not _change(store, name, token, lambda lease: {"beat": lease["beat"] + 1}):
                    return

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        do()
    except BaseException as error:
        # A signal says nothing about the job.
        more = int(isinstance(error, Exception))
        stop.set()
        thread.join(timeout=5)
        store.retry.seconds = LEAVE_SECONDS
        with contextlib.suppress(Exception):
            _change(store, name, token, lambda x: {"worker": "", "tries": x["tries"] + more})
        raise
    stop.set()
    thread.join(timeout=5)
    _change(store, name, token, lambda lease: {"done": True})


def _change(
    store: StudyStore, name: str, token: str, change: Callable[[Lease], Mapping[str, Any]]
) -> bool:
    """Change a lease while it has this token; whether it had."""
    while True:
        lease = _read(store).get(name)
        if lease is None or lease["token"] != token:
            return False
        if store.swap_attr(KEY + name, lease, {**lease, **change(lease)}):
            return True


def _read(store: StudyStore) -> dict[str, Lease]:
    attrs = store.attrs()
    return {key.removeprefix(KEY): attrs[key] for key in attrs if key.startswith(KEY)}
