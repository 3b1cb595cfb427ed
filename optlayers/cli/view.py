"""How a study looks at one moment: as a block for a terminal, and as one line for logs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from optlayers.report.tables import duration
from optlayers.results.leaderboard import LeaderboardRow
from optlayers.results.view import StudyView
from optlayers.storage.heartbeat import is_gone, process_of
from optlayers.trials.worker_state import WorkerState

PHASES = ("probe", "explore", "validate", "refine", "done")
SILENT_SECONDS = 300.0
MOST_WORKERS = 16
# A drawn interval is as wide as there is room for, within these characters.
LEAST_DRAWN, MOST_DRAWN = 16, 44
# Marks of a phase that is over, now, to come; parts of a drawn interval: line, score.
MARKS, PLAIN_MARKS = "✓●○─●", "x>.-o"


@dataclass(frozen=True)
class LocalWorker:
    """A worker process of this machine, which may not have reached the database yet."""

    device: str
    state: str
    pid: int = 0


@dataclass(frozen=True)
class Pace:
    """Questions and layer passes a second over the last while, and the seconds left."""

    questions: float | None = None
    passes: float | None = None
    left: float | None = None

    def __str__(self) -> str:
        if self.questions is None:
            return "not known yet"
        text = f"{self.questions:,.0f} questions/s"
        return text + (f", {self.passes:,.0f} layer passes/s" if self.passes is not None else "")

    @property
    def time_left(self) -> str:
        """`about 3 min left`, where that is known."""
        return f"about {duration(self.left)} left" if self.left else ""


def layers_text(row: LeaderboardRow) -> str:
    """`[0,10,11]`."""
    return f"[{','.join(map(str, row.layers))}]"


def _interval(row: LeaderboardRow) -> str:
    return f"{100 * row.ci_low:.1f} to {100 * row.ci_high:.1f}"


def _counts(found: StudyView) -> list[tuple[int, str]]:
    return [(count, name) for name, count, _ in found.funnel.steps()]


def line(found: StudyView, local: Sequence[LocalWorker], pace: Pace) -> str:
    """The study in one line, for logs."""
    counted, top = found.trial_counts, found.best
    done, running = counted["complete"] + counted["pruned"], counted["running"]
    if not done:
        workers = [f"{w.device}: {w.state}" for w in local]
        workers = workers or [f"{w.device}: {w.state}" for w in present(found.workers)]
        return f"{found.phase}: " + ("; ".join(workers) or "no worker yet")
    best = "no best yet"
    if top:
        best = f"best {100 * top.score:.1f} % ({_interval(top)}) {layers_text(top)}"
    failed = f", {found.failed} failed" if found.failed else ""
    counts = ", ".join(f"{count} {name}" for count, name in _counts(found))
    rate = "" if pace.questions is None else f", {pace}"
    left = f", {pace.time_left}" if pace.time_left else ""
    return (
        f"{found.phase}: {done} trials done, {running} running{failed} ({counts}), {best}"
        f"{rate}{left}"
    )


def present(workers: Sequence[WorkerState]) -> list[WorkerState]:
    """The workers that are still there, as far as can be told; those long silent stand last."""
    here = [w for w in workers if not is_gone(w.name) and not w.state.startswith(("done", "left"))]
    return sorted(here, key=lambda w: time.time() - w.seen > SILENT_SECONDS)


@dataclass(frozen=True)
class View:
    """The study as a block for a terminal, in its width and height; for `rich`."""

    found: StudyView
    local: Sequence[LocalWorker]
    pace: Pace

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Name and phases, how far it is, the funnel, the best sets, rates, workers."""
        marks = PLAIN_MARKS if options.ascii_only else MARKS
        width = options.max_width
        yield self._head(marks)
        yield self._bar()
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True, min_width=9)
        table.add_column(overflow="fold")
        table.add_row("sets", self._funnel())
        table.add_row("rate", str(self.pace))
        table.add_row("saved", self._saved() or "nothing is known yet")
        yield table
        yield self._best(width, marks)
        workers = _workers(self.found, self.local)
        # What does not fit on the screen would be cut off without a word.
        taken = 8 + len(self.found.best_of_size)
        room = min(MOST_WORKERS, max(1, console.size.height - taken))
        if len(workers) > room:
            workers = [*workers[: room - 1], f"and {len(workers) - room + 1} more"]
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True, min_width=9)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for number, row in enumerate(workers):
            table.add_row("" if number else "workers", row)
        yield table

    def _head(self, marks: str) -> Text:
        """The study, and its phases: what is over, what is now, what will be."""
        phase = self.found.phase
        text = Text()
        text.append(self.found.definition.name, style="bold")
        now = PHASES.index(phase) if phase in PHASES else -1
        for number, name in enumerate(PHASES[:-1]):
            style = "bold cyan" if number == now else "green" if number < now else "dim"
            mark = marks[1] if number == now else marks[0] if number < now else marks[2]
            text.append(f"   {mark} {name}", style=style)
        return text

    def _bar(self) -> Table:
        total = max(1, self.found.expected_evaluations)
        done = min(self.found.question_evaluations, total)
        told = [f"{100 * done / total:.0f} %", *filter(None, [self.pace.time_left])]
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        table.add_column(ratio=1)
        table.add_column(no_wrap=True)
        table.add_row(
            ProgressBar(total, done, complete_style="cyan", finished_style="green"), ", ".join(told)
        )
        return table

    def _funnel(self) -> Text:
        text = Text()
        for number, (count, name) in enumerate(_counts(self.found)):
            text.append(", " if number else "").append(f"{count:,}", style="bold")
            text.append(f" {name}")
        text.append(f"; {self.found.trial_counts['running']} running")
        if self.found.failed:
            text.append(f", {self.found.failed} failed", style="red")
        return text

    def _saved(self) -> str:
        """`63 % by racing, 35 % of the rest by shared prefixes`, as far as it is known."""
        parts, saved = [], self.found.savings
        if saved.racing is not None:
            parts.append(f"{100 * saved.racing:.0f} % by racing")
        if saved.prefixes is not None:
            parts.append(f"{100 * saved.prefixes:.0f} % of the rest by shared prefixes")
        return ", ".join(parts)

    def _best(self, width: int, marks: str) -> Table:
        """The best set and those of each size; intervals are drawn where there is room."""
        best = self.found.best
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True, min_width=9)
        if best is None:
            table.add_column()
            table.add_row("best", "none yet")
            return table
        rows = [("best", best), *((f"  of {r.n_layers}", r) for r in self.found.best_of_size)]
        longest = max(len(layers_text(row)) for _, row in rows)
        room = min(MOST_DRAWN, width - (11 + 8 + 15 + longest + 2 + 4 + 2))
        low = min(row.ci_low for _, row in rows)
        high = max(row.ci_high for _, row in rows)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_column(no_wrap=True)
        if room >= LEAST_DRAWN:
            table.add_column(no_wrap=True)
        for number, (name, row) in enumerate(rows):
            cells = [f"{100 * row.score:.1f} %", _interval(row), layers_text(row), row.fidelity]
            drawn = [_drawn(row, low, high, room, marks)] if room >= LEAST_DRAWN else []
            table.add_row(name, *cells, *drawn, style="" if number else "bold")
        return table


def view(found: StudyView, local: Sequence[LocalWorker], pace: Pace) -> View:
    """The study as a block for a terminal."""
    return View(found, local, pace)


def _drawn(row: LeaderboardRow, low: float, high: float, room: int, marks: str) -> Text:
    """The interval of a score on a scale from `low` to `high`, in `room` characters."""

    def place(share: float) -> int:
        return round((share - low) / max(high - low, 1e-9) * (room - 1))

    start, stop = place(row.ci_low), place(row.ci_high)
    text = Text(" " * start + marks[3] * (stop - start + 1) + " " * (room - 1 - stop))
    text.stylize("cyan" if row.fidelity == "full" else "dim")
    score = place(row.score)
    return (
        text[:score]
        + Text(marks[4], style="cyan" if row.fidelity == "full" else "")
        + (text[score + 1 :])
    )


def _workers(found: StudyView, local: Sequence[LocalWorker]) -> list[str]:
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
        name = " ".join(filter(None, [worker.host, worker.pid, worker.device]))
        rows.append(f"{name}: {state}{rate}")
    rows += [f"{w.device}: {w.state}" for w in local if w.pid not in pids]
    return rows or ["none is here"]
