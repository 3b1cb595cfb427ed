"""A report as Markdown, for papers and wikis, and as JSON, for scripts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from optlayers.layerset import Donors, LayerSet
from optlayers.report.data import Report
from optlayers.report.figure import Figure
from optlayers.report.page import definition_text
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
from optlayers.trials.record import encode_answers

ROWS = 30
FORMAT = 1


def markdown(report: Report, figures: Sequence[Figure], images: str | None = None) -> str:
    """The report as Markdown: every table, and each figure as its table.

    images: the folder of the figures' files, relative to where the text goes.
    """
    parts = [f"# {report.name}", lead(report)]
    for title, table in (
        ("Leaderboard", leaderboard_table(report, ROWS)),
        ("Held-out check", held_out_table(report)),
    ):
        if table is not None:
            parts += [f"## {title}", table.note, _table(table)]
    for figure in figures:
        shown = Table(list(figure.head), [list(row) for row in figure.rows])
        picture = f"![{figure.alt}]({images}/{figure.name}.svg)" if images else figure.alt
        parts += [f"## {figure.title}", picture, figure.note, _table(shown)]
    cost = cost_table(report)
    parts += ["## What it cost", cost.note, _table(cost)]
    failed = failures_table(report)
    if failed is not None:
        parts += ["## Trials without a result", failed.note, _table(failed)]
    parts += ["## Workers, hardware and versions", _table(workers_table(report))]
    parts += [_table(versions_table(report))]
    parts += ["## The study's definition", f"```yaml\n{definition_text(report)}```"]
    parts += [f"Made {report.made}. Fingerprint {report.fingerprint}."]
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


def as_data(report: Report) -> dict[str, Any]:
    """The report as plain data: `format` tells its make; shares are 0 to 1, NaN is null."""
    data: dict[str, Any] = {"format": FORMAT, **_plain(report, report.donors)}
    data["pareto_front"] = [_plain(entry, report.donors) for entry in report.front]
    return data


def _plain(value: Any, donors: Donors) -> Any:
    if isinstance(value, LayerSet):
        return value.labels(donors)
    if isinstance(value, np.ndarray):
        return encode_answers(value) if value.ndim == 1 else _plain(value.tolist(), donors)
    if isinstance(value, LeaderboardRow):
        return {**value.to_dict(), "cost": value.cost}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {f.name: _plain(getattr(value, f.name), donors) for f in dataclasses.fields(value)}
        row = found.pop("row", None)
        return {**row, **found} if isinstance(row, dict) else found
    if hasattr(value, "model_dump"):
        return _plain(value.model_dump(), donors)
    if isinstance(value, dict):
        return {str(k): _plain(v, donors) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, donors) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
