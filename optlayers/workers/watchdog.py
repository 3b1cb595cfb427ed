"""Watchdog: a limit on how long an evaluation takes, since it may hang."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from optlayers.storage.heartbeat import Heartbeats
from optlayers.storage.signals import raise_interrupt

# An evaluation hangs when it takes so many times longer than the slowest so far, and at least so
# many seconds; the first one, when it takes hours.
HANG_FACTOR, HANG_LEAST, HANG_FIRST = 20.0, 600.0, 4 * 3600.0


class Watchdog:
    """Limits evaluations: after the limit, `heartbeats.on_hang` is called in its thread.

    hang_seconds: the limit; None: by the slowest evaluation so far.
    """

    def __init__(self, heartbeats: Heartbeats, hang_seconds: float | None) -> None:
        self.heartbeats, self.hang_seconds = heartbeats, hang_seconds
        self._slowest = 0.0  # seconds of one question of one set

    @contextlib.contextmanager
    def limit(self, answers: int) -> Iterator[None]:
        """Limit the block, in which so many answers are computed."""
        raise_interrupt()
        least = HANG_LEAST if self._slowest else HANG_FIRST
        began = time.monotonic()
        limit = self.hang_seconds or max(least, HANG_FACTOR * self._slowest * answers)
        self.heartbeats.allow(limit)
        try:
            yield
        finally:
            self.heartbeats.allow(None)
            seconds = time.monotonic() - began
            self._slowest = max(self._slowest, seconds / max(1, answers))
