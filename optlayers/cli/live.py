"""The live view of a search: on a terminal a view that renews itself, elsewhere plain lines.

What it shows comes from the database, so that all workers of a study show, wherever they run.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from optlayers.leaderboard import Row
from optlayers.liveness import is_gone, process_of
from optlayers.report.progress import Snapshot, snapshot
from optlayers.report.tables import duration
from optlayers.worklog import WorkerState

LINE_SECONDS = 5.0
WINDOW_SECONDS = 30.0
RENEW_SECONDS = 1.0
# At most this share of the time goes into reading the database for the view.
SHARE = 0.05
SILENT_SECONDS = 300.0
PHASES = ("probe", "explore", "validate", "refine", "done")
MOST_WORKERS = 16


@dataclass(frozen=True)
class LocalWorker:
    """A worker process of this machine, which may not have reached the database yet."""

    device: str
    state: str
    pid: int = 0


@dataclass(frozen=True)
class _Pace:
    """Questions and layer passes a second over the last while, and the seconds left."""

    questions: float | None = None
    passes: float = 0.0
    left: float | None = None

    def __str__(self) -> str:
        if self.questions is None:
            return "rate not known yet"
        about = f", about {duration(self.left)} left" if self.left else ""
        return f"{self.questions:,.0f} questions/s, {self.passes:,.0f} layer passes/s{about}"


def row_text(row: Row) -> str:
    """Score, interval and layers of a set."""
    layers = ",".join(map(str, row.layers)) or "none"
    return f"{100 * row.score:.1f} % ({100 * row.ci_low:.1f} to {100 * row.ci_high:.1f}) [{layers}]"


class LiveView:
    """Shows a study as it goes; a context manager on standard error, or another console."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        rich = self.console.is_terminal and (console is not None or sys.stderr.isatty())
        self._live = Live(console=self.console, auto_refresh=False) if rich else None
        self._seen: deque[tuple[float, int, int]] = deque()
        self._last_line = self._next_look = 0.0

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
        found = snapshot(definition, study)
        now = time.monotonic()
        self._next_look = now + max(RENEW_SECONDS if self._live else 0.0, (now - began) / SHARE)
        self.show(found, local)
        return found.status.phase

    def show(self, found: Snapshot, local: Sequence[LocalWorker] = ()) -> None:
        """Renew the view."""
        pace = self._pace(found)
        if self._live is not None:
            self._live.update(view(found, local, pace), refresh=True)
        elif found.status.phase == "done" or time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            self.console.print(Text(line(found, local, pace)), soft_wrap=True)

    def _pace(self, found: Snapshot) -> _Pace:
        now, state = time.monotonic(), found.status
        self._seen.append((now, state.question_evaluations, found.passes))
        while now - self._seen[0][0] > WINDOW_SECONDS:
            self._seen.popleft()
        then, questions, passes = self._seen[0]
        if now <= then:
            return _Pace()
        rate = (state.question_evaluations - questions) / (now - then)
        left = None
        if rate > 0:
            left = max(0.0, state.expected - state.question_evaluations) / rate
        return _Pace(rate, (found.passes - passes) / (now - then), left)


def _saved(found: Snapshot) -> str:
    """`saved 63 % by racing, 35 % by prefixes`, as far as it is known."""
    parts = []
    if found.savings.racing is not None:
        parts.append(f"{100 * found.savings.racing:.0f} % by racing")
    if found.savings.prefixes is not None:
        parts.append(f"{100 * found.savings.prefixes:.0f} % of the rest by shared prefixes")
    return ", ".join(parts)


def _funnel(found: Snapshot) -> str:
    f = found.funnel
    return (
        f"{f.proposed} proposed, {f.fast} fast, {f.raced_out} raced out, {f.full} full, "
        f"{f.refined} refined"
    )


def line(found: Snapshot, local: Sequence[LocalWorker], pace: _Pace) -> str:
    """The study in one line, for logs."""
    state = found.status
    done, running = state.trials["complete"] + state.trials["pruned"], state.trials["running"]
    if not done:
        workers = [f"{w.device}: {w.state}" for w in local]
        workers = workers or [f"{w.device}: {w.state}" for w in present(found.workers)]
        return f"{state.phase}: " + ("; ".join(workers) or "no worker yet")
    best = f"best {row_text(state.best)}" if state.best else "no best yet"
    return (
        f"{state.phase}: {done} trials done, {running} running ({_funnel(found)}), {best}, {pace}"
    )


def present(workers: Sequence[WorkerState]) -> list[WorkerState]:
    """The workers that are still there, as far as can be told, the last to be heard of first."""
    here = [w for w in workers if not is_gone(w.name) and not w.state.startswith(("done", "left"))]
    return sorted(here, key=lambda w: -w.seen)


def _phases(phase: str) -> Text:
    """The phases in their order; what is over, what is now, what will be."""
    text = Text()
    now = PHASES.index(phase) if phase in PHASES else -1
    for number, name in enumerate(PHASES[:-1]):
        style = "bold" if number == now else "green" if number < now else "dim"
        mark = "● " if number == now else "✓ " if number < now else "  "
        text.append(f"{mark}{name}   ", style=style)
    return text


def view(found: Snapshot, local: Sequence[LocalWorker], pace: _Pace) -> Group:
    """The study as a block of text for a terminal."""
    state = found.status
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_row("study", Text(f"{state.study}", style="bold"))
    table.add_row("phase", _phases(state.phase))
    counts = state.trials
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    table.add_row("layer sets", f"{_funnel(found)}; {counts['running']} running{failed}")
    best = Text(row_text(state.best), style="bold") if state.best else Text("none yet")
    table.add_row("best", best)
    for row in state.best_of_size:
        table.add_row(f"  of {row.n_layers}", f"{row_text(row)} {row.fidelity}")
    table.add_row("rate", str(pace))
    table.add_row("saved", _saved(found) or "nothing is known yet")
    for name, what in _workers(found, local):
        table.add_row(name, what)
    bar = ProgressBar(
        total=max(1, state.expected), completed=min(state.question_evaluations, state.expected)
    )
    return Group(table, bar)


def _workers(found: Snapshot, local: Sequence[LocalWorker]) -> list[tuple[str, str]]:
    """A row a worker: those that the database knows, then those of this machine that begin."""
    known = present(found.workers)
    pids = {process_of(w.name) for w in known} - {0}
    rows = []
    for worker in known:
        silent = time.time() - worker.seen
        state = worker.state
        if silent > SILENT_SECONDS:
            state += f" (silent for {duration(silent)})"
        rate = f", {worker.questions / worker.seconds:,.0f} questions/s" if worker.seconds else ""
        rows.append(f"{worker.host} {worker.device}: {state}{rate}")
    rows += [f"{w.device}: {w.state[:60]}" for w in local if w.pid not in pids]
    more = len(rows) - MOST_WORKERS
    rows = [*rows[:MOST_WORKERS], *([f"and {more} more"] if more > 0 else [])]
    return [("workers" if i == 0 else "", row) for i, row in enumerate(rows)]


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
