"""Tables and JSON on standard output, the same for every command."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from optlayers.layerset import Donors
from optlayers.results.comparisons import Difference
from optlayers.results.heldout import HeldOut
from optlayers.results.leaderboard import LeaderboardRow
from optlayers.results.view import StudyView
from optlayers.trials.cost import Cost

NOTHING_YET = "no layer set has been evaluated yet"
# Characters that a leaderboard with every interval takes.
WIDE = 130


def print_json(data: Any) -> None:
    """One JSON document on standard output."""
    json.dump(data, sys.stdout, indent=2)
    sys.stdout.write("\n")
    sys.stdout.flush()


def console() -> Console:
    """A console on standard output."""
    return Console(file=sys.stdout, highlight=False)


def _table(title: str) -> Table:
    """An empty table in the look of all of them."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.padding = (0, 1, 0, 0)
    return table


def rows_table(
    rows: Sequence[LeaderboardRow],
    title: str,
    width: int = 80,
    cost: Cost | None = None,
) -> Table:
    """A leaderboard as a table; scores in per cent, differences in points.

    Compared rows show their differences too, with every interval and p-value where `width`, in
    characters, is large enough.
    """
    table = _table(title)
    columns = _columns(width >= WIDE, rows, cost)
    for name in columns:
        table.add_column(name, justify="left" if name == "layers" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(show(row) for show in columns.values()))
    if any(_is_tied(row) for row in rows):
        table.caption = "= cannot be told from the best; differences in points, paired"
        table.caption_justify = "left"
    return table


_Show = Callable[[LeaderboardRow], str]


def _is_tied(row: LeaderboardRow) -> bool:
    return bool(row.comparison and row.comparison.ties_with_best)


def _columns(wide: bool, rows: Sequence[LeaderboardRow], cost: Cost | None) -> dict[str, _Show]:
    """The columns of a leaderboard, by their heads."""
    digits = 1 if wide else 0
    found: dict[str, _Show] = {
        "rank": lambda r: f"{'=' if _is_tied(r) else ''}{r.rank}",
        "layers": lambda r: ",".join(map(str, r.layers)) or "none",
        "score": lambda r: f"{100 * r.score:.1f}",
        "95 %": lambda r: f"{100 * r.ci_low:.{digits}f} to {100 * r.ci_high:.{digits}f}",
    }
    if cost is not None and cost.table is not None:
        unit = cost.title.rpartition(", ")[2]
        found[f"cost, {unit}" if wide else unit] = lambda r: cost.text(r.cost or 0.0)
    if any(row.held_out for row in rows):
        found["held out" if wide else "held"] = lambda r: _held_out(r.held_out, wide)
    for name in ("next", "base", "donor"):
        if any(_difference(row, name) for row in rows):
            with_p = wide or name == "next"
            found[f"to {name}" if wide else name] = functools.partial(_points, name, with_p)
    found["questions" if wide else "n"] = lambda r: str(r.questions)
    if wide or not any(row.comparison for row in rows):
        found[""] = lambda r: r.fidelity
        found["trial"] = lambda r: str(r.trial)
    return found


def _difference(row: LeaderboardRow, to: str) -> Difference | None:
    found: Difference | None = getattr(row.comparison, f"to_{to}", None)
    return found


def _points(to: str, with_p: bool, row: LeaderboardRow) -> str:
    """A difference of a row in points, and its p-value."""
    found = _difference(row, to)
    if found is None:
        return ""
    # Rounded first, so that nothing is less than nothing.
    rounded = round(100 * found.difference, 1) or 0.0
    points = f"{rounded:+.1f}" if rounded else "0.0"
    if found.p_value < 0.001:
        p = "p<.001"
    elif found.p_value >= 0.9995:
        p = "p=1"
    else:
        p = "p=" + f"{found.p_value:.3f}"[1:]
    return f"{points} {p}" if with_p else points


def _held_out(found: HeldOut | None, with_interval: bool) -> str:
    if found is None:
        return ""
    score = f"{100 * found.score:.1f}"
    if not with_interval:
        return score
    return f"{score} ({100 * found.ci_low:.1f} to {100 * found.ci_high:.1f})"


def held_out_table(found: Sequence[HeldOut], donors: Donors) -> Table:
    """The held-out check as a table; scores in per cent."""
    table = _table(f"held-out check on {found[0].questions} questions")
    for name in ("", "layers", "score", "95 %"):
        table.add_column(name, justify="left" if name == "layers" else "right", no_wrap=True)
    for row in found:
        layers = "all" if row.name in donors else ",".join(map(str, row.layers)) or "none"
        interval = f"{100 * row.ci_low:.1f} to {100 * row.ci_high:.1f}"
        table.add_row(row.name, layers, f"{100 * row.score:.1f}", interval)
    return table


def status_lines(view: StudyView) -> list[str]:
    """Where a study stands, as a few lines of text."""
    best = view.best
    return [
        f"study {view.definition.name}, phase {view.phase}",
        "trials: " + ", ".join(f"{count} {name}" for name, count in view.trial_counts.items()),
        f"{view.funnel.evaluated} layer sets, {view.question_evaluations} questions evaluated",
        f"best: {100 * best.score:.1f} % ({100 * best.ci_low:.1f} to {100 * best.ci_high:.1f}) "
        f"with layers {','.join(map(str, best.layers))}"
        if best
        else "best: none yet",
    ]
