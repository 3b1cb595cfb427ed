"""A study, drawn as a block for a terminal or as one line for a log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from optlayers.cli.tables import broken, interval_text, layers_text
from optlayers.report.formats import duration
from optlayers.results.leaderboard import LeaderboardRow
from optlayers.results.view import StudyView
from optlayers.storage.heartbeat import is_gone, process_of
from optlayers.trials.worker_state import WorkerState

PHASES = ("probe", "explore", "validate", "refine", "done")
SILENT_SECONDS = 300.0
MOST_WORKERS = 16
# Characters of a drawn interval; it takes the room that there is.
LEAST_DRAWN, MOST_DRAWN = 16, 44
# Characters that label, score, interval and fidelity take beside a layer set.
REST_OF_ROW = 11 + 8 + 15 + 4 + 2
# Marks of a past, current and future phase; then line and score of a drawn interval.
MARKS, ASCII_MARKS = "✓●○─●", "x>.-o"


@dataclass(frozen=True)
class LocalWorker:
    """A worker process of this machine, which may not have reached the database yet."""

    device: str
    state: str
    pid: int = 0


@dataclass(frozen=True)
class Pace:
    """Questions and layer passes per second recently, and the seconds left; None: not known."""

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
        """`about 3 min left`, or nothing."""
        return f"about {duration(self.left)} left" if self.left else ""


@dataclass(frozen=True)
class Screen:
    """The study as a block that fits a terminal; printed by `rich`."""

    found: StudyView
    local: Sequence[LocalWorker]
    pace: Pace

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Name and phases, progress, layer sets, best sets, rates, workers."""
        marks = ASCII_MARKS if options.ascii_only else MARKS
        yield self._phases(marks)
        yield self._progress()
        facts = _labelled(1)
        facts.columns[1].overflow = "fold"
        facts.columns[1].no_wrap = False
        facts.add_row("sets", self._counts())
        facts.add_row("rate", str(self.pace))
        facts.add_row("saved", self._saved())
        yield facts
        best = self._best(options.max_width, marks)
        yield best
        workers = _workers(self.found, self.local)
        # rich would cut off what does not fit on the screen.
        used = 7 + len(console.render_lines(best, options))
        room = min(MOST_WORKERS, max(1, console.size.height - used))
        if len(workers) > room:
            workers = [*workers[: room - 1], f"and {len(workers) - room + 1} more"]
        table = _labelled(1)
        for row, worker in enumerate(workers):
            table.add_row("" if row else "workers", worker)
        yield table

    def _phases(self, marks: str) -> Text:
        phase = self.found.phase
        now = PHASES.index(phase) if phase in PHASES else -1
        text = Text(self.found.definition.name, style="bold")
        for number, name in enumerate(PHASES[:-1]):
            when = 0 if number < now else 1 if number == now else 2
            style = ("green", "bold cyan", "dim")[when]
            text.append(f"   {marks[when]} {name}", style=style)
        return text

    def _progress(self) -> Table:
        total = max(1, self.found.expected_evaluations)
        done = min(self.found.question_evaluations, total)
        said = [f"{100 * done / total:.0f} %", *filter(None, [self.pace.time_left])]
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        table.add_column(ratio=1)
        table.add_column(no_wrap=True)
        bar = ProgressBar(total, done, complete_style="cyan", finished_style="green")
        table.add_row(bar, ", ".join(said))
        return table

    def _counts(self) -> Text:
        text = Text()
        for number, (name, count, _) in enumerate(self.found.funnel.steps()):
            text.append(", " if number else "").append(f"{count:,}", style="bold")
            text.append(f" {name}")
        text.append(f"; {self.found.trial_counts['running']} running")
        if self.found.failed:
            text.append(f", {self.found.failed} failed", style="red")
        return text

    def _saved(self) -> str:
        parts, saved = [], self.found.savings
        if saved.racing is not None:
            parts.append(f"{100 * saved.racing:.0f} % by racing")
        if saved.prefixes is not None:
            parts.append(f"{100 * saved.prefixes:.0f} % of the rest by shared prefixes")
        return ", ".join(parts) or "not known yet"

    def _best(self, width: int, marks: str) -> Table:
        """The best set and the best of each size; intervals are drawn if there is room."""
        best = self.found.best
        if best is None:
            table = _labelled(1)
            table.add_row("best", "none yet")
            return table
        rows = [("best", best), *((f"  of {r.n_layers}", r) for r in self.found.best_of_size)]
        longest = max(len(layers_text(row)) + 2 for _, row in rows)
        room = min(MOST_DRAWN, width - (REST_OF_ROW + longest + 2))
        low = min(row.ci_low for _, row in rows)
        high = max(row.ci_high for _, row in rows)
        table = _labelled(4 + (room >= LEAST_DRAWN))
        table.columns[1].justify = "right"
        table.columns[3].no_wrap, table.columns[3].overflow = False, "fold"
        for number, (name, row) in enumerate(rows):
            cells: list[str | Text] = [f"{100 * row.score:.1f} %", interval_text(row)]
            layers = broken(f"[{layers_text(row)}]", width - REST_OF_ROW)
            cells += [layers, row.fidelity]
            if room >= LEAST_DRAWN:
                cells.append(_drawn(row, low, high, room, marks))
            table.add_row(name, *cells, style="" if number else "bold")
        return table


def line(found: StudyView, local: Sequence[LocalWorker], pace: Pace) -> str:
    """The study in one line, for logs."""
    trials, top = found.trial_counts, found.best
    done = trials["complete"] + trials["pruned"]
    if not done:
        workers = [f"{w.device}: {w.state}" for w in local or present(found.workers)]
        return f"{found.phase}: " + ("; ".join(workers) or "no worker yet")
    best = "no best set yet"
    if top:
        best = f"best {100 * top.score:.1f} % ({interval_text(top)}) [{layers_text(top)}]"
    failed = f", {found.failed} failed" if found.failed else ""
    counts = ", ".join(f"{count} {name}" for name, count, _ in found.funnel.steps())
    rate = "" if pace.questions is None else f", {pace}"
    left = f", {pace.time_left}" if pace.time_left else ""
    progress = f"{done} trials done, {trials['running']} running{failed} ({counts})"
    return f"{found.phase}: {progress}, {best}{rate}{left}"


def present(workers: Sequence[WorkerState]) -> list[WorkerState]:
    """The workers that have not left, as far as is known; those that are silent come last."""
    here = [w for w in workers if not is_gone(w.name) and not w.state.startswith(("done", "left"))]
    return sorted(here, key=lambda w: time.time() - w.seen > SILENT_SECONDS)


def _labelled(columns: int) -> Table:
    """A table without lines: a column of labels, and so many others."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True, min_width=9)
    for _ in range(columns):
        table.add_column(no_wrap=True, overflow="ellipsis")
    return table


def _drawn(row: LeaderboardRow, low: float, high: float, room: int, marks: str) -> Text:
    """The interval of a score on a scale from `low` to `high`, in `room` characters."""
    start, score, stop = (
        round((share - low) / max(high - low, 1e-9) * (room - 1))
        for share in (row.ci_low, row.score, row.ci_high)
    )
    full = row.fidelity == "full"
    text = Text(" " * start + marks[3] * (stop - start + 1) + " " * (room - 1 - stop))
    text.stylize("cyan" if full else "dim")
    return text[:score] + Text(marks[4], style="cyan" if full else "") + text[score + 1 :]


def _workers(found: StudyView, local: Sequence[LocalWorker]) -> list[str]:
    """A line per worker: those in the database, then those of this machine that are starting."""
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
    return rows or ["none"]
