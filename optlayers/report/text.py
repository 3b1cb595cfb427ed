"""A report as Markdown, for papers and wikis, and as JSON, for scripts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from optlayers.layerset import Donors, LayerSet
from optlayers.report.baselines import Baseline
from optlayers.report.figure import Figure
from optlayers.report.page import definition_text, made
from optlayers.report.tables import (
    Table,
    cost_table,
    failures_table,
    held_out_table,
    lead,
    leaderboard_table,
    versions_table,
    workers_table,
)
from optlayers.results.leaderboard import LeaderboardRow
from optlayers.results.view import StudyView
from optlayers.trials.record import encode_answers

ROWS = 30
FORMAT = 1


def markdown(view: StudyView, figures: Sequence[Figure], images: str | None = None) -> str:
    """The report as Markdown: every table, and each figure as its table.

    images: the folder of the figures' files, relative to where the text goes.
    """
    parts = [f"# {view.definition.name}", lead(view)]
    for title, table in (
        ("Leaderboard", leaderboard_table(view, ROWS)),
        ("Held-out check", held_out_table(view)),
    ):
        if table is not None:
            parts += [f"## {title}", table.note, _table(table)]
    for figure in figures:
        shown = Table(list(figure.head), [list(row) for row in figure.rows])
        picture = f"![{figure.alt}]({images}/{figure.name}.svg)" if images else figure.alt
        parts += [f"## {figure.title}", picture, figure.note, _table(shown)]
    cost = cost_table(view)
    parts += ["## What it cost", cost.note, _table(cost)]
    failed = failures_table(view)
    if failed is not None:
        parts += ["## Trials without a result", failed.note, _table(failed)]
    parts += ["## Workers, hardware and versions", _table(workers_table(view))]
    parts += [_table(versions_table(view))]
    parts += ["## The study's definition", f"```yaml\n{definition_text(view)}```"]
    parts += [f"Made {made(view)}. Fingerprint {view.definition.fingerprint()}."]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(table: Table) -> str:
    if not table.rows:
        return ""
    lines = [_row(table.head), "|" + "---|" * len(table.head)]
    return "\n".join([*lines, *(_row(row) for row in table.rows)])


def _row(cells: Sequence[Any]) -> str:
    texts = [c["text"] if isinstance(c, dict) else "" if c is None else str(c) for c in cells]
    # Names and messages come from the database; viewers of Markdown take HTML for what it says.
    return "| " + " | ".join(t.replace("|", "\\|").replace("<", "&lt;") for t in texts) + " |"


def as_data(view: StudyView, baselines: Sequence[Baseline] = ()) -> dict[str, Any]:
    """The report as plain data: `format` tells its make; shares are 0 to 1, NaN is null."""
    data = {
        "format": FORMAT,
        "name": view.definition.name,
        "phase": view.phase,
        "made": made(view),
        "definition": view.definition.to_dict(),
        "fingerprint": view.definition.fingerprint(),
        "n_layers": view.n_layers,
        "donors": view.donors,
        "cost": {"kind": view.cost.kind, "table": view.cost.table, "n_donors": len(view.donors)},
        "n_fast": view.n_fast,
        "n_full": view.n_full,
        "trials": view.trial_counts,
        "entries": [_entry(row) for row in view.compared],
        "references": view.references,
        "held_out": view.held_out,
        "effects": view.effects,
        "generations": view.generations,
        "course": view.course,
        "baselines": list(baselines),
        "funnel": view.funnel,
        "savings": view.savings,
        "failures": view.failures,
        "fast_full": view.fast_and_full,
        "rank_correlation": view.rank_correlation,
        "subjects": view.subjects,
        "workers": view.workers,
        "pareto_front": [_entry(view.compared[row.rank - 1]) for row in view.front],
    }
    found: dict[str, Any] = _plain(data, view.donors)
    return found


def _entry(row: LeaderboardRow) -> dict[str, Any]:
    """A row of the leaderboard, with what compares it to the first."""
    return {
        **dataclasses.replace(row, comparison=None).to_dict(),
        "cost": row.cost,
        "phase": row.record.phase,
        "behind": row.behind,
        "p_value": row.p_value,
        "tied": row.tied,
        "evidence": row.comparison.to_dict() if row.comparison else None,
    }


def _plain(value: Any, donors: Donors) -> Any:
    if isinstance(value, LayerSet):
        return value.labels(donors)
    if isinstance(value, np.ndarray):
        return encode_answers(value) if value.ndim == 1 else _plain(value.tolist(), donors)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), donors) for f in dataclasses.fields(value)}
    if hasattr(value, "model_dump"):
        return _plain(value.model_dump(), donors)
    if isinstance(value, dict):
        return {str(k): _plain(v, donors) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, donors) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
