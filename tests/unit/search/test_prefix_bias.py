from __future__ import annotations

import numpy as np
import pytest
from optuna.trial import TrialState

from optlayers.layerset import LayerSet
from optlayers.search.prefix_bias import levelled, prefix_biases
from optlayers.trials.record import Record


def raced(rng: np.random.Generator, easier: float) -> tuple[list[dict[int, float]], np.ndarray]:
    """Sets of which the better quarter continue; the first questions are easier."""
    levels = rng.normal(0.5, 0.05, 200)
    first = np.array([rng.binomial(100, p + easier) / 100 for p in levels])
    courses = []
    for level, score in zip(levels, first, strict=True):
        course = {100: float(score)}
        if score > np.quantile(first, 0.75):
            course[400] = float((100 * score + rng.binomial(300, level - easier / 3)) / 400)
        courses.append(course)
    return courses, levels


@pytest.mark.parametrize("easier", [0.0, 0.06])
def test_the_bias_is_found_though_lucky_sets_continued(easier: float) -> None:
    rng = np.random.default_rng(0)
    found = [prefix_biases(raced(rng, easier)[0]) for _ in range(20)]
    mean = np.mean([f[100] for f in found])
    assert mean == pytest.approx(easier, abs=0.015)
    assert all(f[400] == pytest.approx(0.0) for f in found)
    # The mean drop of the sets that continued mistakes their luck for easy questions.
    courses = raced(rng, easier)[0]
    naive = np.mean([c[100] - c[400] for c in courses if 400 in c])
    assert abs(mean - easier) < 0.5 * (naive - easier)


def test_no_bias_is_found_if_no_set_continued_or_scores_are_not_shares() -> None:
    assert prefix_biases([{10: 0.5}, {10: 0.7}]) == {10: 0.0}
    assert prefix_biases([{10: 5.0, 20: 7.0}]) == {10: 0.0, 20: 0.0}
    assert prefix_biases([]) == {}


def test_a_set_counts_once_by_its_most_questions_and_at_its_level() -> None:
    def record(number: int, layer: int, questions: int, score: float) -> Record:
        return Record(
            number=number,
            state=TrialState.PRUNED,
            layers=LayerSet.of(layer),
            questions=questions,
            score=score,
            intermediate={questions: score},
        )

    # Two trials of one set make one course; the second 100 questions are harder by 20 points.
    records = [record(i, i, 100, 0.6) for i in range(8)]
    records += [record(8 + i, i, 200, 0.5) for i in range(7)]
    found = {r.layers.indices[0]: r for r in levelled(records)}
    assert [found[i].questions for i in (0, 7)] == [200, 100]
    assert found[0].score == pytest.approx(0.5)
    assert 0.5 < (found[7].score or 0.0) < 0.55
