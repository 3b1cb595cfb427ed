"""A report as a list of sections, as Markdown for papers and wikis, and as JSON for scripts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import yaml

from optlayers.config.study import StudyDefinition, shipped_studies
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.report import cost, layers, scores, tables
from optlayers.report.section import Cell, Section
from optlayers.results.leaderboard import LeaderboardRow
from optlayers.results.view import StudyView
from optlayers.trials.answers import encode_answers

# Rows of the leaderboard in the page, and in Markdown.
ROWS, MARKDOWN_ROWS = 200, 30
FORMAT = 1


def sections(
    view: StudyView, baselines: Sequence[cost.Baseline] = (), rows: int = ROWS
) -> list[Section]:
    """Every section that the study has data for; rows: how many of the leaderboard."""
    found = (
        tables.leaderboard_table(view, rows),
        tables.held_out_table(view),
        scores.best_sets(view),
        scores.score_by_size(view),
        layers.layer_effects(view),
        layers.pair_synergy(view),
        layers.evolution(view),
        cost.score_by_cost(view, baselines),
        cost.funnel_chart(view),
        scores.fast_against_full(view),
        scores.by_subject(view),
        cost.cost_by_phase(view),
        tables.failures_table(view),
        tables.workers_table(view),
        tables.versions_table(view),
    )
    return [section for section in found if section is not None]


def figures(found: Sequence[Section]) -> list[Section]:
    """The sections that have a plot."""
    return [section for section in found if section.plot is not None]


def made(view: StudyView) -> str:
    """When the study was read."""
    return view.made.strftime("%Y-%m-%d %H:%M %Z")


def definition_text(definition: StudyDefinition) -> str:
    """The study's definition as YAML."""
    text: str = yaml.safe_dump(
        definition.to_dict(),
        sort_keys=False,
        default_flow_style=None,
        width=90,
        allow_unicode=True,
    )
    return text


def study_argument(name: str) -> str:
    """What `--study` takes for a study of that name: a shipped name, or a file."""
    return name if name in {path.stem for path in shipped_studies()} else f"{name}.yaml"


def markdown(view: StudyView, found: Sequence[Section], images: str | None = None) -> str:
    """The report as Markdown.

    images: the folder of the figures' files, relative to that of the text.
    """
    parts = [f"# {view.definition.name}", tables.lead(view)]
    for section in found:
        picture = section.alt
        if images and section.plot:
            picture = f"![{section.alt}]({images}/{section.name}.svg)"
        parts += [f"## {section.title}", picture, section.note, _table(section)]
    parts += ["## The study's definition", f"```yaml\n{definition_text(view.definition)}```"]
    parts += [f"Made {made(view)}. Fingerprint {view.definition.fingerprint()}."]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(section: Section) -> str:
    if not section.rows:
        return ""
    lines = [_row(section.head), "|" + "---|" * len(section.head)]
    return "\n".join([*lines, *(_row(row) for row in section.rows)])


def _row(cells: Sequence[Cell]) -> str:
    # Names and messages come from the database, and Markdown may contain HTML.
    texts = ["" if c is None else str(c).replace("|", "\\|").replace("<", "&lt;") for c in cells]
    return f"| {' | '.join(texts)} |"


def as_data(view: StudyView, baselines: Sequence[cost.Baseline] = ()) -> dict[str, Any]:
    """The report as plain data: `format` is its version; shares are 0 to 1, NaN is null."""
    names = (
        *("phase", "n_layers", "donors", "n_fast", "n_full", "references", "held_out", "effects"),
        *("generations", "course", "funnel", "savings", "failures", "rank_correlation"),
        *("subjects", "workers"),
    )
    data = {
        "format": FORMAT,
        "name": view.definition.name,
        "made": made(view),
        "definition": view.definition.to_dict(),
        "fingerprint": view.definition.fingerprint(),
        "cost": {"kind": view.cost.kind, "table": view.cost.table, "n_donors": len(view.donors)},
        "trials": view.trial_counts,
        "entries": [_entry(row) for row in view.compared],
        "pareto_front": [_entry(view.compared[row.rank - 1]) for row in view.front],
        "baselines": [baseline.model_dump() for baseline in baselines],
        "fast_full": view.fast_and_full,
        **{name: getattr(view, name) for name in names},
    }
    found: dict[str, Any] = _plain(data, view.space)
    return found


def _entry(row: LeaderboardRow) -> dict[str, Any]:
    """A row of the leaderboard, with its comparison under `evidence`."""
    return {
        **dataclasses.replace(row, comparison=None).to_dict(),
        "cost": row.cost,
        "phase": row.record.phase,
        "behind": row.behind,
        "p_value": row.p_value,
        "tied": row.tied,
        "evidence": row.comparison,
    }


def _plain(value: Any, space: LayerSpace) -> Any:
    if isinstance(value, LayerSet):
        return space.labels(value)
    if isinstance(value, np.ndarray):
        return encode_answers(value) if value.ndim == 1 else _plain(value.tolist(), space)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), space) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): _plain(v, space) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, space) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
