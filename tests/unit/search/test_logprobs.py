"""Log-probabilities beside right and wrong: what they add, and where they add nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from optuna.trial import TrialState

from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search.history import individuals_from
from optlayers.search.logprobs import LEAST, adjusted_scores, note_rung
from optlayers.trials.record import Halves, Record
from optlayers.trials.statistics import FloatArray, spearman

SETS = [LayerSet.of(i, j) for i in range(12) for j in range(i)]
QUESTIONS = 40


def made(
    spread: float, logs_know: bool, seed: int, questions: int = QUESTIONS
) -> tuple[FloatArray, list[Record]]:
    """True levels around .4, and records of answers with log-probabilities."""
    rng = np.random.default_rng(seed)
    truth = 0.4 + spread * rng.standard_normal(len(SETS))
    records = []
    for number, (layers, level) in enumerate(zip(SETS, truth, strict=True)):
        right = (rng.random(questions) < level).astype(float)
        said = (level - 0.4) / spread if logs_know else 0.0
        logs = -2.0 + 0.5 * said + 1.0 * rng.standard_normal(questions)
        records.append(
            Record(
                number=number,
                state=TrialState.PRUNED,
                layers=layers,
                questions=questions,
                score=float(right.mean()),
                fidelity="fast",
                intermediate={questions: float(right.mean())},
                halves=note_rung({}, right.astype(bool), 0, logs),
            )
        )
    return truth, records


def gain(spread: float, logs_know: bool) -> float:
    """How much better the adjusted scores rank sets than the measured ones, mean of 20."""
    found = []
    for seed in range(20):
        truth, records = made(spread, logs_know, seed)
        sharper = adjusted_scores(records)
        scores = np.array([r.score for r in records], dtype=float)
        new = np.array([sharper[r.layers.indices] for r in records])
        # As far as none is cut off at 0 or 1.
        assert new.mean() == pytest.approx(scores.mean(), abs=0.01)
        assert new.std() == pytest.approx(scores.std(), rel=0.05)
        found.append(spearman(new, truth) - spearman(scores, truth))
    return float(np.mean(found))


def test_near_guessing_log_probabilities_rank_sets_much_earlier() -> None:
    assert gain(0.02, logs_know=True) > 0.25


def test_where_scores_are_reliable_log_probabilities_that_say_nothing_cost_little() -> None:
    assert -0.05 < gain(0.25, logs_know=False) <= 0.01


def test_few_sets_and_sets_without_log_probabilities_stay_as_they_are() -> None:
    _, records = made(0.02, True, 0)
    assert adjusted_scores(records[: LEAST - 1]) == {}
    assert adjusted_scores([Record(**{**vars(r), "halves": {}}) for r in records]) == {}


def test_a_score_on_more_questions_than_the_log_probabilities_is_left_alone() -> None:
    _, records = made(0.02, True, 0)
    further = records[0]
    records[0] = Record(**{**vars(further), "questions": 2 * QUESTIONS, "score": 0.5})
    found = adjusted_scores(records)
    assert further.layers.indices not in found
    assert len(found) == len(SETS) - 1


def test_the_search_sees_the_adjusted_score() -> None:
    _, records = made(0.02, True, 0)
    space = LayerSpace(n_layers=12, min_layers=1, max_layers=4)
    sharper = adjusted_scores(records)
    for individual in individuals_from(records, space=space, population_size=16):
        assert individual.score == pytest.approx(sharper[individual.layers.indices])
        assert individual.fitness == pytest.approx(sharper[individual.layers.indices])


@pytest.mark.parametrize("cuts", [(60,), (15, 60), (15, 16, 31, 60)])
def test_rows_noted_rung_by_rung_are_those_of_all_questions_at_once(cuts: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    right, logs = rng.random(60) < 0.4, -rng.random(60)
    noted: dict[int, Halves] = {}
    begin = 0
    for stop in cuts:
        noted = note_rung(noted, right[:stop], begin, logs[begin:stop])
        begin = stop
    assert list(noted) == list(cuts)
    for n, halves in noted.items():
        asked = [part[:n][half::2].mean() for part in (right, logs) for half in (0, 1)]
        assert [*halves.right, *halves.logs] == pytest.approx(asked, abs=1e-5)


def test_rungs_without_log_probabilities_end_the_rows() -> None:
    right, logs = np.ones(30, dtype=bool), -np.ones(30)
    rows = note_rung({}, right[:10], 0, logs[:10])
    assert note_rung(rows, right[:20], 10, None) == rows
    assert note_rung(rows, right, 20, logs[20:]) == rows
    assert note_rung(rows, right[:10], 0, logs[:10]) == rows


def test_what_each_question_counts_is_what_it_counts_in_the_rows() -> None:
    rng = np.random.default_rng(4)
    right, logs, weights = rng.random(60) < 0.4, -rng.random(60), rng.random(60)
    rows: dict[int, Halves] = {}
    for begin, stop in ((0, 15), (15, 60)):
        rows = note_rung(rows, right[:stop], begin, logs[begin:stop], weights)
    asked = [
        np.average(part[half::2], weights=weights[half::2])
        for part in (right, logs)
        for half in (0, 1)
    ]
    assert [*rows[60].right, *rows[60].logs] == pytest.approx(asked, abs=1e-5)
    # A question that counts nothing is as one that was not asked.
    weights[:58] = 0.0
    assert note_rung({}, right, 0, logs, weights)[60].logs == pytest.approx(logs[58:], abs=1e-5)
    assert note_rung({}, right, 0, logs, np.zeros(60)) == {}


@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_a_log_probability_that_is_no_number_is_not_noted(value: float) -> None:
    right, logs = np.ones(20, dtype=bool), -np.ones(20)
    logs[13] = value
    rows = note_rung({}, right[:10], 0, logs[:10])
    assert len(rows) == 1
    assert note_rung(rows, right, 10, logs[10:]) == rows
    assert note_rung({}, right, 0, logs) == {}


def test_one_question_has_no_two_halves() -> None:
    assert note_rung({}, np.ones(1, dtype=bool), 0, -np.ones(1)) == {}


def test_asked_anew_in_another_precision_a_set_keeps_what_it_said_before() -> None:
    right = np.ones(20, dtype=bool)
    rows = note_rung({}, right[:10], 0, -np.ones(10))
    assert note_rung(rows, right, 0, None) == rows


def _with_logs(records: list[Record], logs: FloatArray) -> list[Record]:
    """The records with these means of log-probabilities [n, 2]."""
    found = []
    for record, pair in zip(records, logs.tolist(), strict=True):
        ((n, halves),) = record.halves.items()
        found.append(replace(record, halves={n: Halves(halves.right, (pair[0], pair[1]))}))
    return found


def test_log_probabilities_that_are_all_alike_change_nothing() -> None:
    _, records = made(0.02, True, 0)
    found = adjusted_scores(_with_logs(records, np.full((len(records), 2), -0.7)))
    assert list(found.values()) == pytest.approx([r.score for r in records], abs=1e-9)


def test_log_probabilities_that_contradict_the_scores_in_all_change_nothing() -> None:
    grid = [(a / 10, b / 10) for a in range(3, 9) for b in range(3, 9)]
    _, records = made(0.02, True, 0)
    records = [
        replace(r, score=sum(pair) / 2, halves={QUESTIONS: Halves(pair, (-pair[0], -pair[1]))})
        for r, pair in zip(records, grid, strict=False)
    ]
    found = adjusted_scores(records)
    assert list(found.values()) == pytest.approx([r.score for r in records], abs=1e-9)


def test_one_broken_set_does_not_hide_what_the_others_say() -> None:
    truth, records = made(0.02, True, 0)
    logs = np.array([r.halves[QUESTIONS].logs for r in records])
    logs[0] -= 500.0
    before, after = (adjusted_scores(some) for some in (records, _with_logs(records, logs)))
    ranks = [
        spearman(np.array([found[r.layers.indices] for r in records[1:]]), truth[1:])
        for found in (before, after)
    ]
    assert ranks[1] > ranks[0] - 0.1
