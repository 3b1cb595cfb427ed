"""Displays that update while a command runs: a study under search, and bytes being written.

On a terminal they redraw themselves; elsewhere they print a line now and then.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from optlayers.cli.screen import LocalWorker, Pace, Screen, line
from optlayers.results.view import StudyView

LINE_SECONDS, LONGEST_LINE_SECONDS = 5.0, 60.0
WINDOW_SECONDS = 30.0
REFRESH_SECONDS = 1.0
# The largest share of the time that goes into reading the database for the display.
SHARE = 0.05


def can_redraw(console: Console) -> bool:
    """Whether a display may redraw itself there: on a capable terminal, not in CI."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        return False
    # With FORCE_COLOR rich takes a pipe for a terminal.
    return console.is_terminal and not console.is_dumb_terminal and console.file.isatty()


class Rate:
    """Steps per second of a counter over the last `WINDOW_SECONDS`, or since its last change."""

    def __init__(self) -> None:
        self._changes: deque[tuple[float, int]] = deque()

    def __call__(self, count: int) -> float | None:
        """The rate, now that the counter is at `count`; None at first."""
        now, changes = time.monotonic(), self._changes
        if not changes or count != changes[-1][1]:
            changes.append((now, count))
        # Keep two samples: a cohort can take longer than the window.
        while len(changes) > 2 and now - changes[0][0] > WINDOW_SECONDS:
            changes.popleft()
        then, first = changes[0]
        return (count - first) / (now - then) if now > then else None


class LiveView(contextlib.AbstractContextManager["LiveView"]):
    """Shows a study as it goes, from its database: the workers of all machines.

    console: default standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        redraws = can_redraw(self.console)
        self._live = Live(console=self.console, auto_refresh=False) if redraws else None
        self._questions, self._passes = Rate(), Rate()
        self._began = time.monotonic()
        self._next_line = self._next_look = 0.0
        self._phase = self._last_text = ""

    def __enter__(self) -> LiveView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(Text(text), soft_wrap=True)

    def follow(self, definition: Any, study: Any, local: Sequence[LocalWorker] = ()) -> str | None:
        """Read the study and show it, unless it is too early to; the phase, if it was read."""
        if time.monotonic() < self._next_look:
            return None
        busy = time.thread_time()
        found = StudyView.of(definition, study)
        # Processor time: on a machine under load wall time would be longer than the work.
        pause = (time.thread_time() - busy) / SHARE
        self._next_look = time.monotonic() + max(REFRESH_SECONDS if self._live else 0.0, pause)
        self.show(found, local)
        return found.phase

    def show(self, found: StudyView, local: Sequence[LocalWorker] = ()) -> None:
        """Show a view; as lines, if the phase is new or the last one is long ago."""
        pace = self._pace(found)
        if self._live is not None:
            self._live.update(Screen(found, local, pace), refresh=True)
            return
        now, phase = time.monotonic(), found.phase
        if phase != self._phase or now >= self._next_line:
            # Less often in a long search, so that its log stays short.
            wait = min(max(LINE_SECONDS, SHARE * (now - self._began)), LONGEST_LINE_SECONDS)
            self._phase, self._next_line = phase, now + wait
            text = line(found, local, pace)
            if text != self._last_text:
                self._last_text = text
                self.note(text)

    def _pace(self, found: StudyView) -> Pace:
        done = found.question_evaluations
        questions, passes = self._questions(done), self._passes(found.passes)
        left = max(0, found.expected_evaluations - done) / questions if questions else None
        return Pace(questions, passes if found.passes else None, left)


class Watcher(threading.Thread, contextlib.AbstractContextManager["Watcher"]):
    """Shows a study from a thread while the main thread works; a context manager."""

    def __init__(self, definition: Any, study: Any) -> None:
        super().__init__(daemon=True)
        self.definition, self.study = definition, study
        self._end = threading.Event()

    def run(self) -> None:
        """Show the study until the context ends."""
        with LiveView() as view:
            while not self._end.wait(REFRESH_SECONDS):
                # A failing display must not end the worker.
                with contextlib.suppress(Exception):
                    view.follow(self.definition, self.study)

    def __enter__(self) -> Watcher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join(timeout=2.0)


class ByteProgress(contextlib.AbstractContextManager["ByteProgress"]):
    """Progress of a copy on standard error; call it with the bytes done and in all."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.console = Console(stderr=True, highlight=False)
        self._started = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task(what, total=None)

    def __enter__(self) -> ByteProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` bytes are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
            return
        now = time.monotonic()
        if now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            rate = done / (now - self._started) / 1e6
            self.console.print(
                f"{self.what}: {done / 1e9:.1f} of {total / 1e9:.1f} GB, {rate:.0f} MB/s",
                soft_wrap=True,
            )
