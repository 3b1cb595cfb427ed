"""Turns: work for a whole study that one worker does while the others wait for it.

Who does what stands in the study, one line a piece of work, which its worker renews as long as it
lives. A worker that ended in the middle loses its turn: at once where that can be seen, on this
host, and on others when its line has not changed for a while by the clock of who waits.
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
from optlayers.storage.retry import limit_patience, never_wait
from optlayers.storage.transactions import swap_study_attr

KEY = "turn:"
POLL = 0.5  # seconds
# A piece of work that ends its workers again and again is given up after so many.
MOST_TRIES = 4
# How long a worker that is to leave tries to say so.
LEAVE_SECONDS = 3.0


def in_turn(
    study: optuna.Study,
    worker: str,
    work: Mapping[str, Callable[[], None]],
    *,
    end: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Return when each piece of work is done, by this worker or by another.

    `work` has names that mean the same to all workers of the study. What one raises ends its
    turn, so that another may try; after `MOST_TRIES` it is given up, and `say` is told. Raises
    `TimeUp` where there is still something to wait for at `end` (monotonic seconds).
    """
    left, watch = dict(work), _Watch()
    while left:
        lines = watch.look(study, left)
        for name, do in list(left.items()):
            line = lines.get(name)
            if line is not None and line["done"]:
                del left[name]
                if line["tries"] > MOST_TRIES:
                    say(f"{name} is given up: it ended {MOST_TRIES} workers")
            elif line is None or not line["worker"] or watch.is_lost(name, line):
                tries = 1 if line is None else line["tries"] + bool(line["worker"])
                mine: dict[str, Any] = {
                    "worker": worker,
                    "token": uuid.uuid4().hex,
                    "tries": tries,
                    "beat": 0,
                    "done": tries > MOST_TRIES,
                }
                if swap_study_attr(study._storage, study._study_id, KEY + name, line, mine):
                    if not mine["done"]:
                        _do(study, name, do, mine["token"])
                    break  # the lines were read before the work
        else:
            if left and end is not None and time.monotonic() > end:
                raise TimeUp
            if left:
                time.sleep(POLL)


def finished(study: optuna.Study, names: Iterable[str]) -> bool:
    """Whether each of these is done, or given up."""
    lines = _lines(study)
    return all(name in lines and lines[name]["done"] for name in names)


class _Watch:
    """Since when (monotonic seconds) each line has not changed, by the clock of who waits."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Any, float]] = {}
        self._looked = 0.0

    def look(self, study: optuna.Study, names: Iterable[str]) -> dict[str, Any]:
        """The lines as they are now."""
        lines = _lines(study)
        now = time.monotonic()
        if now - self._looked > 3 * HEARTBEAT_SECONDS:
            self._seen.clear()  # the database was away, or this process worked or slept
        self._looked = now
        for name in names:
            old = self._seen.get(name)
            if old is None or old[0] != lines.get(name):
                self._seen[name] = (lines.get(name), now)
        return lines

    def is_lost(self, name: str, line: Mapping[str, Any]) -> bool:
        """Whether the worker of that line has ended."""
        return is_gone(line["worker"]) or self._looked - self._seen[name][1] >= GRACE_SECONDS


def _do(study: optuna.Study, name: str, do: Callable[[], None], token: str) -> None:
    """Do it, and keep the line alive meanwhile."""
    stop = threading.Event()

    def beat() -> None:
        never_wait()
        while not stop.wait(HEARTBEAT_SECONDS):
            # Where the database is away, the others cannot look either.
            with contextlib.suppress(Exception):
                if not _renew(study, name, token, lambda line: {"beat": line["beat"] + 1}):
                    return

    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        do()
    except BaseException as error:
        # What stops a worker says nothing of the work.
        more = int(isinstance(error, Exception))
        _end(stop, heart)
        limit_patience(study._storage, LEAVE_SECONDS)
        with contextlib.suppress(Exception):
            _renew(study, name, token, lambda line: {"worker": "", "tries": line["tries"] + more})
        raise
    _end(stop, heart)
    _renew(study, name, token, lambda line: {"done": True})


def _end(stop: threading.Event, heart: threading.Thread) -> None:
    stop.set()
    heart.join(timeout=5)


def _renew(
    study: optuna.Study, name: str, token: str, change: Callable[[Any], Mapping[str, Any]]
) -> bool:
    """Change the line, as long as it is of this turn; whether it is."""
    while True:
        line = _lines(study).get(name)
        if line is None or line["token"] != token:
            return False
        new = {**line, **change(line)}
        if swap_study_attr(study._storage, study._study_id, KEY + name, line, new):
            return True


def _lines(study: optuna.Study) -> dict[str, Any]:
    attrs = study._storage.get_study_system_attrs(study._study_id)
    return {key.removeprefix(KEY): attrs[key] for key in attrs if key.startswith(KEY)}
