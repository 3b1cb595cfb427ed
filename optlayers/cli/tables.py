"""Tables and JSON on standard output, the same for every command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from optlayers.layerset import Donors
from optlayers.results.comparisons import Difference, Evidence
from optlayers.results.heldout import HeldOut
from optlayers.results.leaderboard import LeaderboardRow, Status
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
    proof: Sequence[Evidence] = (),
    width: int = 80,
    cost: Cost | None = None,
) -> Table:
    """A leaderboard as a table; scores in per cent, differences in points.

    With `proof` (for these rows, in order; more are left out) it shows what speaks for each place,
    with every interval and p-value where `width`, in characters, has room for them.
    """
    proof = proof[: len(rows)]
    wide = width >= WIDE
    table = _table(title)
    columns = _columns(wide, proof, cost)
    for name in columns:
        table.add_column(name, justify="left" if name == "layers" else "right", no_wrap=True)
    for place, row in enumerate(rows):
        known = proof[place] if proof else None
        table.add_row(*(show(row, known) for show in columns.values()))
    if any(e.ties_with_best for e in proof):
        table.caption = "= cannot be told from the best; differences in points, paired"
        table.caption_justify = "left"
    return table


_Show = Callable[[LeaderboardRow, "Evidence | None"], str]


def _columns(wide: bool, proof: Sequence[Evidence], cost: Cost | None) -> dict[str, _Show]:
    """The columns of a leaderboard, by their heads."""
    digits = 1 if wide else 0
    found: dict[str, _Show] = {
        "rank": lambda r, e: f"{'=' if e and e.ties_with_best else ''}{r.rank}",
        "layers": lambda r, e: ",".join(map(str, r.layers)) or "none",
        "score": lambda r, e: f"{100 * r.score:.1f}",
        "95 %": lambda r, e: f"{100 * r.ci_low:.{digits}f} to {100 * r.ci_high:.{digits}f}",
    }
    if cost is not None and cost.table is not None:
        unit = cost.title.rpartition(", ")[2]
        found[f"cost, {unit}" if wide else unit] = lambda r, e: cost.text(r.cost or 0.0)
    if any(e.held_out for e in proof):
        found["held out" if wide else "held"] = lambda r, e: _held_out(
            e.held_out if e else None, wide
        )
    if any(e.to_next for e in proof):
        found["to next" if wide else "next"] = lambda r, e: _points(e.to_next if e else None, True)
    if any(e.to_base for e in proof):
        found["to base" if wide else "base"] = lambda r, e: _points(e.to_base if e else None, wide)
    if any(e.to_donor for e in proof):
        found["to donor" if wide else "donor"] = lambda r, e: _points(
            e.to_donor if e else None, wide
        )
    found["questions" if wide else "n"] = lambda r, e: str(r.questions)
    if wide or not proof:
        found[""] = lambda r, e: r.fidelity
        found["trial"] = lambda r, e: str(r.trial)
    return found


def _points(found: Difference | None, with_p: bool) -> str:
    """A difference in points, and its p-value."""
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
