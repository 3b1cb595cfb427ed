"""Tables and JSON on standard output, the same for every command."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from optlayers.layerset import Donors
from optlayers.results.comparisons import Difference
from optlayers.results.heldout import HeldOut
from optlayers.results.leaderboard import LeaderboardRow
from optlayers.results.view import StudyView
from optlayers.trials.cost import Cost

NOTHING_YET = "no layer set has been evaluated yet"
# Characters of a leaderboard with every interval and p-value.
WIDE = 130
UNLIMITED = 1_000_000


def print_json(data: Any) -> None:
    """Print one JSON document."""
    json.dump(data, sys.stdout, indent=2)
    sys.stdout.write("\n")
    sys.stdout.flush()


def console() -> Console:
    """A console on standard output."""
    return Console(file=sys.stdout, highlight=False)


def print_table(
    out: Console,
    title: str,
    columns: Mapping[str, Sequence[str]],
    left: Collection[str] = ("layers",),
    wrapped: str = "layers",
) -> None:
    """Print columns of text by their heads; nothing is ever cut.

    left: the columns that are text. wrapped: the column that is broken where a terminal is too
    narrow; a pipe has no width.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.padding = (0, 1, 0, 0)
    room = out.width - 1 - sum(_width(h, *columns[h]) + 2 for h in columns if h != wrapped) - 2
    if out.is_terminal and wrapped in columns:
        columns = {**columns, wrapped: [broken(cell, room) for cell in columns[wrapped]]}
    for head in columns:
        side: JustifyMethod = "left" if head in left else "right"
        table.add_column(head, justify=side, no_wrap=True)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, row))
    natural = Measurement.get(out, out.options.update(width=UNLIMITED), table).maximum
    # Rich would cut cells where the table is wider than the console.
    table.width = natural if natural > out.width else None
    out.print(table, crop=False)


def _width(*cells: str) -> int:
    """The width of the longest line."""
    return max(cell_len(line) for cell in cells for line in cell.split("\n"))


def broken(text: str, width: int) -> str:
    """Text in lines of a width, broken after commas and spaces alone."""
    lines = [""]
    for piece in re.split(r"(?<=[, ])", text):
        if lines[-1] and cell_len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def print_rows(
    out: Console, rows: Sequence[LeaderboardRow], title: str, cost: Cost | None = None
) -> None:
    """Print a leaderboard; scores in per cent, differences in points.

    Rows that were compared show held-out scores and differences, with every interval and p-value
    if the console is `WIDE`.
    """
    wide = out.width >= WIDE
    tied = [bool(r.comparison and r.comparison.ties_with_best) for r in rows]
    columns = {
        "rank": [f"{'=' if tie else ''}{r.rank}" for r, tie in zip(rows, tied, strict=True)],
        "layers": [layers_text(r) for r in rows],
        "score": [f"{100 * r.score:.1f}" for r in rows],
        "95 %": [interval_text(r, 1 if wide else 0) for r in rows],
    }
    if cost is not None and cost.table is not None:
        unit = cost.title.rpartition(", ")[2]
        columns[f"cost, {unit}" if wide else unit] = [cost.text(r.cost or 0.0) for r in rows]
    if any(r.held_out for r in rows):
        columns["held out" if wide else "held"] = [_held_out(r.held_out, wide) for r in rows]
    for name in ("next", "base", "donor"):
        found: list[Difference | None] = [getattr(r.comparison, f"to_{name}", None) for r in rows]
        if any(found):
            texts = [_points(difference, wide or name == "next") for difference in found]
            columns[f"to {name}" if wide else name] = texts
    columns["questions" if wide else "n"] = [str(r.questions) for r in rows]
    if wide or not any(r.comparison for r in rows):
        columns[""] = [r.fidelity for r in rows]
        columns["trial"] = [str(r.trial) for r in rows]
    print_table(out, title, columns)
    if any(tied):
        out.print("= not significantly different from rank 1; differences in points, paired")


def layers_text(row: LeaderboardRow | HeldOut) -> str:
    """`3,7`, or `none` for the base."""
    return ",".join(map(str, row.layers)) or "none"


def interval_text(row: LeaderboardRow | HeldOut, digits: int = 1) -> str:
    """`41.2 to 55.0`, in per cent."""
    return f"{100 * row.ci_low:.{digits}f} to {100 * row.ci_high:.{digits}f}"


def _points(found: Difference | None, with_p: bool) -> str:
    """A difference in points, and its p-value."""
    if found is None:
        return ""
    # `or`: no minus sign before a zero.
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
    return f"{score} ({interval_text(found)})" if with_interval else score


def print_held_out(out: Console, found: Sequence[HeldOut], donors: Donors) -> None:
    """Print the held-out check; scores in per cent."""
    columns = {
        "": [row.name for row in found],
        "layers": ["all" if row.name in donors else layers_text(row) for row in found],
        "score": [f"{100 * row.score:.1f}" for row in found],
        "95 %": [interval_text(row) for row in found],
    }
    title = f"held-out check on {found[0].questions} questions"
    print_table(out, title, columns, left=("", "layers"))


def status_lines(view: StudyView) -> list[str]:
    """How far a study has come, as a few lines of text."""
    best = "none yet"
    if view.best:
        best = f"{100 * view.best.score:.1f} % ({interval_text(view.best)}), "
        best += f"layers {layers_text(view.best)}"
    return [
        f"study {view.definition.name}, phase {view.phase}",
        "trials: " + ", ".join(f"{count} {name}" for name, count in view.trial_counts.items()),
        f"{view.funnel.evaluated:,} layer sets, {view.question_evaluations:,} question evaluations",
        f"best: {best}",
    ]
