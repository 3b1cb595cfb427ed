"""The live view of a search: on a terminal a view that renews itself, elsewhere plain lines.

What it shows comes from the database, so that all workers of a study show, wherever they run.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from optlayers.cli.view import LocalWorker, Pace, line, view
from optlayers.results.view import StudyView

LINE_SECONDS, LONGEST_LINE_SECONDS = 5.0, 60.0
WINDOW_SECONDS = 30.0
RENEW_SECONDS = 1.0
# At most this share of the time goes into reading the database for the view.
SHARE = 0.05


def renews_itself(console: Console) -> bool:
    """Whether a view may renew itself there: on a terminal that can, watched by a person."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        return False
    # FORCE_COLOR makes rich take a pipe for a terminal.
    return console.is_terminal and not console.is_dumb_terminal and console.file.isatty()


class LiveView:
    """Shows a study as it goes; a context manager on standard error, or another console."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        renews = renews_itself(self.console)
        self._live = Live(console=self.console, auto_refresh=False) if renews else None
        self._seen: deque[tuple[float, int, int]] = deque()
        self._began = time.monotonic()
        self._next_line = self._next_look = 0.0
        self._phase = self._last_text = ""

    def __enter__(self) -> LiveView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        """A line that stays."""
        self.console.print(Text(text), soft_wrap=True)

    def follow(self, definition: Any, study: Any, local: Sequence[LocalWorker] = ()) -> str | None:
        """Look at the study and show it, where it is time to; the phase, if it looked."""
        began = time.monotonic()
        if began < self._next_look:
            return None
        busy = time.thread_time()
        found = StudyView.of(definition, study)
        # The processor's time: on a machine that others keep busy a look only seems to be long.
        pause = (time.thread_time() - busy) / SHARE
        self._next_look = time.monotonic() + max(RENEW_SECONDS if self._live else 0.0, pause)
        self.show(found, local)
        return found.phase

    def show(self, found: StudyView, local: Sequence[LocalWorker] = ()) -> None:
        """Renew the view."""
        pace = self._pace(found)
        if self._live is not None:
            self._live.update(view(found, local, pace), refresh=True)
            return
        now, phase = time.monotonic(), found.phase
        if phase != self._phase or now >= self._next_line:
            # A log of a day should not have a line for every five seconds of it.
            wait = min(max(LINE_SECONDS, SHARE * (now - self._began)), LONGEST_LINE_SECONDS)
            self._phase, self._next_line = phase, now + wait
            text = line(found, local, pace)
            if text != self._last_text:
                self._last_text = text
                self.console.print(Text(text), soft_wrap=True)

    def _pace(self, found: StudyView) -> Pace:
        now, asked = time.monotonic(), found.question_evaluations
        seen = self._seen
        done = (asked, found.passes)
        if len(seen) > 1 and seen[-1][1:] == seen[-2][1:] == done:
            seen.pop()  # a study that stands still is not remembered second by second
        seen.append((now, *done))
        while now - seen[0][0] > WINDOW_SECONDS and not self._loses_a_change():
            seen.popleft()
        then, questions, passes = seen[0]
        if now <= then:
            return Pace()
        rate = (asked - questions) / (now - then)
        left = None
        if rate > 0:
            left = max(0.0, found.expected_evaluations - asked) / rate
        run = (found.passes - passes) / (now - then)
        return Pace(rate, run if found.passes else None, left)

    def _loses_a_change(self) -> bool:
        """Whether without the oldest look nothing would have happened: cohorts can take minutes."""
        (_, *oldest), (_, *second), (_, *newest) = self._seen[0], self._seen[1], self._seen[-1]
        return any(a != c and b == c for a, b, c in zip(oldest, second, newest, strict=True))


class Watcher(threading.Thread):
    """Shows a study from a thread of its own, beside what the main thread does."""

    def __init__(self, definition: Any, study: Any) -> None:
        super().__init__(daemon=True)
        self.definition, self.study = definition, study
        self.view = LiveView()
        self._end = threading.Event()

    def run(self) -> None:
        """Show, until `close`."""
        with self.view:
            while not self._end.wait(RENEW_SECONDS):
                # The view is no reason for a worker to end.
                with contextlib.suppress(Exception):
                    self.view.follow(self.definition, self.study)

    def close(self) -> None:
        """End the view."""
        self._end.set()
        self.join(timeout=2.0)
