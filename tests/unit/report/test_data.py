"""What a report gathers, against the truth that the search was replayed from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from optuna.trial import TrialState

from optlayers.errors import InputError
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.report.cost import PHASES, SEARCHES, read_baselines
from optlayers.report.document import as_data, figures, markdown, sections
from optlayers.report.formats import short_names
from optlayers.report.page import numeric, page, typeset
from optlayers.report.section import DARK, SOFT, SURFACE
from optlayers.results.course import union_length
from optlayers.results.patterns import effects
from optlayers.results.progress import Failure, failures, funnel, savings
from optlayers.results.view import StudyView
from optlayers.trials.record import Record
from optlayers.trials.records import read_records
from optlayers.trials.statistics import StratifiedScore, paired_difference
from optlayers.trials.worker_state import WorkerState
from tests.helpers.finished import Finished, changed
from tests.helpers.replay import BEST, N_LAYERS, definition, landscape, study_in


def record(number: int, layers: tuple[int, ...], **more: object) -> Record:
    done = {"state": TrialState.PRUNED, "score": 0.5, "questions": 32, "fidelity": "fast"}
    return Record(number=number, layers=LayerSet(layers), **{**done, **more})  # type: ignore[arg-type]


FULL = {"state": TrialState.COMPLETE, "questions": 160, "fidelity": "full"}


def test_the_funnel_counts_distinct_sets_by_how_far_they_came() -> None:
    found = funnel(
        [
            record(0, (1,), goal="fast", phase="probe"),
            record(1, (1, 2), goal="race", phase="explore"),
            record(2, (1, 3), goal="race", phase="explore"),
            record(3, (1, 3), goal="full", phase="validate", **FULL),
            record(4, (2, 3), goal="full", phase="refine", **FULL),
            record(5, (4,), state=TrialState.RUNNING, score=None),
            record(6, (5,), state=TrialState.WAITING, score=None),
            record(7, (6,), state=TrialState.FAIL, score=None),
            record(8, (5, 6), goal="step", phase="explore", questions=8),
        ],
        n_fast=32,
    )
    assert found.evaluated == 5
    assert [count for _, count, _ in found.steps()] == [7, 4, 2, 2, 1]


def test_what_failed_is_told_apart_from_what_went_back() -> None:
    none = {"state": TrialState.FAIL, "score": None}
    nan = "NaN in the logits; these layers do not work together"
    found = failures(
        [
            record(0, (1,), worker="a:1:1", reason="interrupted: the worker was stopped", **none),
            record(1, (1, 2), worker="a:1:1", reason=f"layers [1,2]: {nan}", **none),
            record(2, (3,), worker="a:1:1", reason=f"layers [3]: {nan}", **none),
            record(3, (4,), worker="a:1:1", **none),
            record(4, (5,)),
        ],
        LayerSpace(),
    )
    assert found == [
        Failure(nan, 2, False, [1, 2]),
        Failure("interrupted: the worker was stopped", 1, True, [1]),
        Failure("lost worker", 1, True, [4]),
    ]


def test_numbers_are_set_as_in_print() -> None:
    assert typeset("-2.6 of 97.4 %, demo-pair, p-1") == "\u22122.6 of 97.4\u00a0%, demo-pair, p-1"
    columns = ([1], ["-2.6"], ["94.4 to 98.8 %"], ["<0.001"], ["48 of 1,140"])
    assert all(numeric([column, [""], [None]], 0) for column in columns)
    assert not any(numeric([[text]], 0) for text in ("0, 10", "vm", "2.13.0+cpu", "", "5 workers"))


def test_subjects_have_names_as_one_would_say_them() -> None:
    assert short_names(["mmlu_anatomy", "mmlu_world_religions"]) == ["anatomy", "world religions"]
    assert short_names(["arc", "mmlu_anatomy"]) == ["arc", "mmlu anatomy"]
    assert short_names(["mmlu", "mmlu_anatomy"]) == ["mmlu", "mmlu anatomy"]
    assert short_names(["s0"]) == ["s0"]


def test_colours_stand_out_in_both_lights() -> None:
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


def test_savings_are_against_every_set_in_full_and_every_pass_alone() -> None:
    records = [record(0, (1,), evaluated=32), record(1, (2,), evaluated=160, **FULL)]
    found = savings(records, [WorkerState("a", passes=30, saved_passes=10)], 160)
    assert found.racing == pytest.approx(1 - 192 / 320)
    assert found.prefixes == pytest.approx(0.25)
    assert found.together == pytest.approx(1 - 0.6 * 0.75)
    assert savings([], [], 160).together is None


def test_the_report_agrees_with_the_truth(finished: Finished) -> None:
    view, known = finished.view, landscape()
    truth = known.scores()
    assert view.best is not None
    assert view.best.layers == list(BEST.indices)
    assert (view.phase, view.n_layers, view.n_full) == ("done", N_LAYERS, 160)
    for entry in [r for r in view.compared if r.fidelity == "full"]:
        layers = LayerSet(tuple(entry.layers))
        assert entry.score == pytest.approx(truth[layers])
        against = paired_difference(
            known.answers[known.index[layers]],
            known.answers[known.index[BEST]],
            known.order.subject,
            known.order.weights,
        )
        assert entry.behind == pytest.approx(0 if layers == BEST else against.difference)
        assert entry.tied == (layers == BEST or against.p_value > 0.05)
    assert not any(entry.tied for entry in view.compared if entry.fidelity == "fast")
    assert view.references["base"].score == pytest.approx(truth[LayerSet(())])
    assert view.references["donor"].score == pytest.approx(0.9, abs=0.08)
    for subject, name in enumerate(s.name for s in known.order.subjects):
        [row] = [s for s in view.subjects if s.name == name]
        mine = known.order.subject == subject
        assert row.winner == pytest.approx(known.answers[known.index[BEST]][mine].mean())
        assert row.base == pytest.approx(known.answers[known.index[LayerSet(())]][mine].mean())
        assert row.donor is not None


def test_what_was_paid_adds_up(finished: Finished) -> None:
    view = finished.view
    records = read_records(finished.study.get_trials(deepcopy=False))
    paid = sum(r.evaluated for r in records)
    assert view.course.total.questions == paid
    assert view.course.total.stop == pytest.approx(paid / 160)
    assert [p.phase for p in view.course.phases] == ["probe", "explore", "validate", "refine"]
    [worker] = view.workers
    assert worker.questions == paid
    assert worker.state == "done"
    assert worker.passes + worker.saved_passes == worker.questions * N_LAYERS
    assert worker.saved_passes > 0
    assert "cores" in worker.hardware
    assert "optuna" in worker.versions
    full = [s.score for s in view.course.full]
    assert full == sorted(full)
    assert full[-1] == view.compared[0].score
    # The grey line is of the fast questions, not of the part of them that a race begins with.
    fast = [s.score for s in view.course.fast]
    assert fast == sorted(fast)
    known = landscape()
    scale = StratifiedScore(strata=known.order.subject, weights=known.order.weights)
    reached = [e.layers for e in view.compared if e.questions >= view.n_fast]
    rows = [known.answers[known.index[LayerSet(tuple(layers))]] for layers in reached]
    assert fast[-1] == pytest.approx(max(scale.score(row[: view.n_fast]) for row in rows))
    assert view.funnel.fast == len(reached) < view.funnel.evaluated


def test_every_full_set_has_its_fast_score_beside_it(finished: Finished) -> None:
    """Though the trial that took it further may have asked later questions only."""
    view, known = finished.view, landscape()
    assert len(view.fast_and_full) == len([r for r in view.compared if r.fidelity == "full"])
    scale = StratifiedScore(strata=known.order.subject, weights=known.order.weights)
    for pair in view.fast_and_full:
        answers = known.answers[known.index[LayerSet(tuple(pair.layers))]]
        assert pair.fast == pytest.approx(scale.score(answers[: view.n_fast]))
        assert pair.full == pytest.approx(scale.score(answers))


def test_the_layers_that_matter_stand_out(finished: Finished) -> None:
    found = finished.view.effects
    assert found is not None
    ranked = sorted(found.explanation.layers, key=lambda e: -e.effect)
    assert {e.layers.indices[0] for e in ranked[:3]} == set(BEST.indices)
    assert all(e.is_sure for e in ranked[:3])
    assert np.isnan(np.diag(found.synergy)).all()
    np.testing.assert_array_equal(found.synergy, found.synergy.T)
    for pair in found.explanation.pairs:
        i, j = pair.layers.indices
        assert found.synergy[i, j] == pair.effect
        assert found.half[j, i] == pytest.approx(pair.ci_high - pair.effect)
    assert np.isfinite(found.synergy).sum() == 2 * len(found.explanation.pairs)
    assert effects([], LayerSpace(N_LAYERS)) is None


def test_time_under_way_counts_overlaps_once() -> None:
    assert union_length([(0, 10), (5, 12), (20, 21), (20.5, 20.7)]) == 13
    assert union_length([]) == 0


def test_every_figure_is_valid_and_has_words_and_a_table(finished: Finished) -> None:
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


def test_a_study_that_has_just_begun_has_a_report_too(tmp_path: Path) -> None:
    view = StudyView.of(definition(), study_in(tmp_path))
    found = sections(view)
    assert figures(found) == []
    assert "Nothing has been evaluated yet" in page(view, found)
    assert json.dumps(as_data(view), allow_nan=False)


def test_names_cannot_break_out_of_the_page(finished: Finished) -> None:
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


def test_baselines_are_drawn_and_a_bad_file_is_told(tmp_path: Path, finished: Finished) -> None:
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
