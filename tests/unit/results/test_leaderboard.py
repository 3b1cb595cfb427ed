"""The leaderboard and the status, from records made by hand and from a finished search."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optlayers.layerset import LayerSet
from optlayers.results.leaderboard import best_of_size, leaderboard
from optlayers.results.view import StudyView
from optlayers.trials.record import Record, read_records
from tests.helpers.records import record
from tests.helpers.replay import BEST, N_LAYERS, definition, landscape, study_in, worker_in

ROW = ["rank", "layers", "n_layers", "score", "ci_low", "ci_high", "questions", "fidelity", "trial"]
COUNTS = ["complete", "pruned", "running", "waiting", "failed"]


def order_of(*records: Record) -> list[list[int]]:
    return [row.layers for row in leaderboard(definition(), records)]


def test_full_evaluations_rank_before_fast_ones_of_any_score() -> None:
    rows = leaderboard(definition(), [record(0, (1,), 0.9, 32), record(1, (2,), 0.5, 160)])
    assert [(r.rank, r.layers, r.fidelity) for r in rows] == [(1, [2], "full"), (2, [1], "fast")]


def test_ties_go_to_fewer_layers_and_then_to_lower_indices() -> None:
    found = order_of(
        record(0, (1, 2), 0.5, 160), record(1, (4,), 0.5, 160), record(2, (3,), 0.5, 160)
    )
    assert found == [[3], [4], [1, 2]]


def test_the_trial_with_most_questions_counts_for_its_set() -> None:
    [row] = leaderboard(definition(), [record(0, (1,), 0.9, 32), record(3, (1,), 0.6, 160)])
    assert (row.trial, row.score, row.questions, row.fidelity) == (3, 0.6, 160, "full")


def test_sets_outside_the_budget_and_trials_without_a_score_are_left_out() -> None:
    found = order_of(
        record(0, (), 0.9, 160), record(1, (1, 2, 3, 4), 0.9, 160), record(2, (5,), None, 32)
    )
    assert found == []


def test_the_best_of_each_size_has_few_layers_first() -> None:
    records = [
        record(0, (1, 2), 0.9, 160),
        record(1, (3,), 0.4, 160),
        record(2, (4,), 0.6, 160),
        record(3, (5, 6, 7), 0.99, 32),
    ]
    rows = best_of_size(leaderboard(definition(), records))
    assert [row.layers for row in rows] == [[4], [1, 2], [5, 6, 7]]


def test_a_study_without_trials_is_starting(tmp_path: Path) -> None:
    found = StudyView.of(definition(), study_in(tmp_path)).status()
    assert found == {
        "study": "replayed",
        "phase": "starting",
        "trials": dict.fromkeys(COUNTS, 0),
        "distinct_layer_sets": 0,
        "question_evaluations": 0,
        "best": None,
    }


def test_status_and_leaderboard_of_a_finished_search_have_their_fields(tmp_path: Path) -> None:
    worker_in(tmp_path).run()
    study = study_in(tmp_path)
    trials = study.get_trials(deepcopy=False)
    found = json.loads(json.dumps(StudyView.of(definition(), study).status()))
    assert list(found) == [
        "study", "phase", "trials", "distinct_layer_sets", "question_evaluations", "best"
    ]  # fmt: skip
    assert (found["study"], found["phase"]) == ("replayed", "done")
    assert list(found["trials"]) == COUNTS
    assert sum(found["trials"].values()) == len(trials)
    rows = [row.to_dict() for row in leaderboard(definition(), read_records(trials))]
    assert found["best"] == rows[0]
    assert all(list(row) == ROW for row in rows)
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[0]["layers"] == list(BEST.indices)
    truth = landscape().scores()
    for row in rows:
        assert row["n_layers"] == len(row["layers"])
        assert row["ci_low"] <= row["score"] <= row["ci_high"]
        assert (row["questions"] == 160) == (row["fidelity"] == "full")
        if row["fidelity"] == "full":
            assert row["score"] == pytest.approx(truth[LayerSet(tuple(row["layers"]))], abs=1e-12)
    # Single layers are within the budget here, so every evaluated set has a row.
    assert found["distinct_layer_sets"] == len(rows) >= N_LAYERS
    reached = {tuple(row["layers"]): row["questions"] for row in rows}
    assert found["question_evaluations"] == sum(reached.values())
