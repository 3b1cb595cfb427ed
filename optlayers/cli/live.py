"""The live view of a search: on a terminal a view that renews itself, elsewhere plain lines."""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from optlayers.leaderboard import Row, Status

LINE_SECONDS = 5.0
WINDOW_SECONDS = 30.0


def _row(row: Row) -> str:
    layers = ",".join(map(str, row.layers)) or "none"
    return f"{100 * row.score:.1f} % ({100 * row.ci_low:.1f} to {100 * row.ci_high:.1f}) [{layers}]"


class LiveView:
    """Shows the statuses that it is given; a context manager on standard error."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._live = Live(console=self.console, auto_refresh=False) if self._rich else None
        self._seen: deque[tuple[float, int]] = deque()
        self._last_line = 0.0

    @property
    def _rich(self) -> bool:
        return self.console.is_terminal and sys.stderr.isatty()

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
        self.console.print(Text(text))

    def show(self, state: Status, workers: list[tuple[str, str]]) -> None:
        """Renew the view; `workers` holds device and state of each."""
        rate, left = self._rate(state)
        if self._live is not None:
            self._live.update(self._view(state, workers, rate, left), refresh=True)
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            self.console.print(Text(self._line(state, workers, rate, left)), soft_wrap=True)

    def _rate(self, state: Status) -> tuple[float, float | None]:
        """Questions a second over the last while, and the seconds left at that rate."""
        now = time.monotonic()
        self._seen.append((now, state.question_evaluations))
        while now - self._seen[0][0] > WINDOW_SECONDS:
            self._seen.popleft()
        then, before = self._seen[0]
        done = state.question_evaluations - before
        rate = done / (now - then) if now > then else 0.0
        if rate <= 0:
            return 0.0, None
        return rate, max(0.0, state.expected - state.question_evaluations) / rate

    @staticmethod
    def _numbers(state: Status) -> tuple[int, int]:
        return state.trials["complete"] + state.trials["pruned"], state.trials["running"]

    def _line(
        self, state: Status, workers: list[tuple[str, str]], rate: float, left: float | None
    ) -> str:
        done, running = self._numbers(state)
        if not done:
            return f"{state.phase}: " + "; ".join(f"{d} {what}" for d, what in workers)
        best = f", best {_row(state.best)}" if state.best else ""
        about = f", about {left:.0f} s left" if left is not None else ""
        return (
            f"{state.phase}: {done} trials done, {running} running{best}, "
            f"{rate:.0f} questions/s{about}"
        )

    def _view(
        self, state: Status, workers: list[tuple[str, str]], rate: float, left: float | None
    ) -> Group:
        done, running = self._numbers(state)
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_row("study", f"{state.study}, phase {state.phase}")
        failed = f", {state.trials['failed']} failed" if state.trials["failed"] else ""
        table.add_row(
            "trials",
            f"{done} done ({state.trials['complete']} full, {state.trials['pruned']} fast), "
            f"{running} running{failed}; {state.distinct_layer_sets} layer sets",
        )
        table.add_row("best", _row(state.best) if state.best else "none yet")
        for row in state.best_of_size:
            table.add_row(f"  of {row.n_layers}", _row(row))
        about = f"about {left:.0f} s left" if left is not None else "time left not known yet"
        table.add_row("rate", f"{rate:.0f} questions/s, {about}")
        for number, (device, what) in enumerate(workers):
            table.add_row(f"worker {number}", f"{device}: {what[:60]}")
        bar = ProgressBar(
            total=max(1, state.expected), completed=min(state.question_evaluations, state.expected)
        )
        return Group(table, bar)
