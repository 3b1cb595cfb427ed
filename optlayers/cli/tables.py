"""Tables and JSON on standard output, the same for every command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from optlayers.evidence import Difference, Evidence
from optlayers.holdout import HeldOut
from optlayers.leaderboard import Row, Status


def print_json(data: Any) -> None:
    """One JSON document on standard output."""
    json.dump(data, sys.stdout, indent=2)
    sys.stdout.write("\n")
    sys.stdout.flush()


def console() -> Console:
    """A console on standard output."""
    return Console(file=sys.stdout, highlight=False)


def rows_table(rows: Sequence[Row], title: str, proof: Sequence[Evidence] = ()) -> Table:
    """A leaderboard as a table; scores in per cent, differences in points.

    With `proof` (for these rows, in order; more are left out) it shows what speaks for each place:
    `=` marks what ties with the best.
    """
    more: dict[str, Callable[[Evidence], str]] = {
        "held out": lambda e: _held_out(e.held_out),
        "to next": lambda e: _points(e.to_next),
        "to base": lambda e: _points(e.to_base),
        "to donor": lambda e: _points(e.to_donor),
    }
    rest = list(proof[: len(rows)])
    more = {name: show for name, show in more.items() if any(show(e) for e in rest)}
    table = Table(title=title, title_justify="left")
    for name in ("rank", "score", "95 % interval", *more, "questions", "", "trial"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("layers", no_wrap=True)
    for place, row in enumerate(rows):
        tie = bool(rest) and rest[place].ties_with_best
        table.add_row(
            f"{'=' if tie else ''}{row.rank}",
            f"{100 * row.score:.1f} %",
            f"{100 * row.ci_low:.1f} to {100 * row.ci_high:.1f}",
            *(show(rest[place]) for show in more.values()),
            str(row.questions),
            row.fidelity,
            str(row.trial),
            ",".join(map(str, row.layers)) or "none",
        )
    return table


def _points(found: Difference | None) -> str:
    """A difference in points, and its p-value."""
    if found is None:
        return ""
    p = "p < .001" if found.p_value < 0.001 else f"p {found.p_value:.3f}".replace("0.", ".")
    return f"{100 * found.difference:+.1f} ({p})"


def _held_out(found: HeldOut | None) -> str:
    if found is None:
        return ""
    return f"{100 * found.score:.1f} ({100 * found.ci_low:.1f} to {100 * found.ci_high:.1f})"


def held_out_table(found: Sequence[HeldOut]) -> Table:
    """The held-out check as a table; scores in per cent."""
    title = f"on {found[0].questions} held-out questions, which no decision has seen"
    table = Table(title=title, title_justify="left")
    for name in ("", "score", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("layers", no_wrap=True)
    for row in found:
        layers = "all" if row.name == "donor" else str(row.layers) or "none"
        interval = f"{100 * row.ci_low:.1f} to {100 * row.ci_high:.1f}"
        table.add_row(row.name, f"{100 * row.score:.1f} %", interval, layers)
    return table


def status_lines(state: Status) -> list[str]:
    """A status as a few lines of text."""
    trials = state.trials
    best = state.best
    return [
        f"study {state.study}, phase {state.phase}",
        "trials: " + ", ".join(f"{count} {name}" for name, count in trials.items()),
        f"{state.distinct_layer_sets} layer sets, {state.question_evaluations} questions evaluated",
        f"best: {100 * best.score:.1f} % ({100 * best.ci_low:.1f} to {100 * best.ci_high:.1f}) "
        f"with layers {','.join(map(str, best.layers))}"
        if best
        else "best: none yet",
    ]
