"""The report of a finished study: figures, tables, page, Markdown and JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from optlayers.errors import InputError
from optlayers.report.cost import PHASES, SEARCHES, read_baselines
from optlayers.report.document import as_data, figures, markdown, sections
from optlayers.report.formats import short_names
from optlayers.report.page import numeric, page, typeset
from optlayers.report.section import DARK, SOFT, SURFACE
from optlayers.results.view import StudyView
from optlayers.trials.worker_state import WorkerState
from tests.helpers.finished import Finished, changed
from tests.helpers.replay import BEST, definition, study_in


def test_minus_signs_and_number_columns_are_recognised() -> None:
    assert typeset("-2.6 of 97.4 %, demo-pair, p-1") == "\u22122.6 of 97.4\u00a0%, demo-pair, p-1"
    columns = ([1], ["-2.6"], ["94.4 to 98.8 %"], ["<0.001"], ["48 of 1,140"])
    assert all(numeric([column, [""], [None]], 0) for column in columns)
    assert not any(numeric([[text]], 0) for text in ("0, 10", "vm", "2.13.0+cpu", "", "5 workers"))


def test_subject_names_lose_their_common_prefix() -> None:
    assert short_names(["mmlu_anatomy", "mmlu_world_religions"]) == ["anatomy", "world religions"]
    assert short_names(["arc", "mmlu_anatomy"]) == ["arc", "mmlu anatomy"]
    assert short_names(["mmlu", "mmlu_anatomy"]) == ["mmlu", "mmlu anatomy"]
    assert short_names(["s0"]) == ["s0"]


def test_colours_have_enough_contrast_in_light_and_dark() -> None:
    def bright(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        parts = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(parts, (0.2126, 0.7152, 0.0722)))

    def contrast(one: str, other: str) -> float:
        low, high = sorted((bright(one), bright(other)))
        return (high + 0.05) / (low + 0.05)

    # WCAG 2, level AA: 4.5 for text, 3 for what a figure draws.
    for colour, least in ((SOFT, 4.5), *((c, 3.0) for c in {*SEARCHES, *PHASES.values()})):
        assert contrast(colour, SURFACE) >= least
        assert contrast(DARK[colour], DARK[SURFACE]) >= least


def test_every_figure_is_valid_and_has_a_description_and_a_table(finished: Finished) -> None:
    found = figures(sections(finished.view))
    assert len(found) == 9
    for figure in found:
        drawn = go.Figure(figure.plot)
        assert len(drawn.data) > 0
        assert len(figure.alt) > 30
        assert figure.rows
        assert all(len(row) == len(figure.head) for row in figure.rows), figure.name
    assert len({figure.name for figure in found}) == 9


def test_json_holds_every_set_and_markdown_every_section(finished: Finished) -> None:
    view = finished.view
    data = json.loads(json.dumps(as_data(view), allow_nan=False))
    assert data["format"] == 1
    assert len(data["entries"]) == len(view.compared)
    assert data["entries"][0]["layers"] == list(BEST.indices)
    assert data["effects"]["synergy"][0][0] is None
    assert data["definition"]["name"] == "replayed"
    text = markdown(view, sections(view), "figures")
    for part in ("## Leaderboard", "## What it cost", "```yaml", "2, 5, 7", "figures/funnel.svg"):
        assert part in text
    widths = [line.count("|") for line in text.splitlines() if line.startswith("| rank")]
    assert widths


def test_a_study_without_trials_has_a_report(tmp_path: Path) -> None:
    view = StudyView.of(definition(), study_in(tmp_path))
    found = sections(view)
    assert figures(found) == []
    assert "Nothing has been evaluated yet" in page(view, found)
    assert json.dumps(as_data(view), allow_nan=False)


def test_names_are_escaped_in_html_and_markdown(finished: Finished) -> None:
    bad = '</script><img src=x onerror=alert(1)>"'
    subjects = [dataclasses.replace(s, name=bad) for s in finished.view.subjects]
    definition = finished.definition.model_copy(update={"name": bad})
    view = changed(finished.view, definition=definition, subjects=subjects)
    text = page(view, sections(view))
    assert "<img" not in text
    assert text.count("</script>") == 4
    view = changed(finished.view, workers=[WorkerState("a:1:2", hardware=bad)])
    assert "&lt;img" in markdown(view, sections(view))
    assert "<img" not in markdown(view, sections(view))


def test_baselines_are_drawn_and_a_bad_file_is_an_input_error(
    tmp_path: Path, finished: Finished
) -> None:
    path = tmp_path / "baselines.json"
    path.write_text('{"searches": {"random": {"cost": [1, 5], "score": [0.3, 0.4]}}}')
    found = figures(sections(finished.view, read_baselines(path)))
    [plot] = [figure.plot for figure in found if figure.name == "score-by-cost"]
    assert plot is not None
    assert "random" in [trace["name"] for trace in plot["data"]]
    path.write_text('{"searches": {"random": {"cost": [1, 5], "score": [0.3]}}}')
    with pytest.raises(InputError, match=r"baselines\.json"):
        read_baselines(path)
    with pytest.raises(InputError, match="No such file"):
        read_baselines(tmp_path / "none.json")
