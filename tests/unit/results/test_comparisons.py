"""Comparisons of leaderboard rows: paired differences, ties, held-out scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from optuna.trial import TrialState

from optlayers.layerset import LayerSet
from optlayers.results.comparisons import compare
from optlayers.results.view import StudyView
from optlayers.trials import keys
from optlayers.trials.answers import encode_answers
from optlayers.trials.record import Record
from tests.helpers.replay import definition, study_in, worker_in

N = 400


def record(number: int, layers: tuple[int, ...], answers: NDArray[np.bool_]) -> Record:
    return Record(
        number=number,
        state=TrialState.COMPLETE,
        layers=LayerSet(layers),
        questions=len(answers),
        score=float(answers.mean()),
        ci_low=0.0,
        ci_high=1.0,
        fidelity="full",
        evaluated=len(answers),
        packed_answers=encode_answers(answers),
    )


def right(first: int, flipped: int = 0) -> NDArray[np.bool_]:
    """The first `first` answers right, with `flipped` moved from the start to the end."""
    answers = np.arange(N) < first
    answers[:flipped] = False
    if flipped:
        answers[-flipped:] = True
    return answers


def test_differences_are_paired_and_ties_are_differences_that_are_not_significant(
    tmp_path: Path,
) -> None:
    study = study_in(tmp_path)
    study.set_user_attr(keys.QUESTION_STRATA, [0] * N)
    study.set_user_attr(keys.SUBJECT_WEIGHTS, [1.0])
    study.set_user_attr(keys.N_FULL, N)
    study.set_user_attr(keys.REFERENCE + "base", encode_answers(right(100)))
    records = [
        record(0, (1,), right(300)),
        # Two questions fewer, of many that differ: noise. Forty fewer of the same: no noise.
        record(1, (2,), right(298, flipped=20)),
        record(2, (3,), right(260)),
    ]
    first, second, third = compare(records, study.user_attrs)
    assert first.to_best is None
    assert not first.ties_with_best
    assert first.to_next is not None
    assert first.to_next.difference == pytest.approx(2 / N)
    assert first.to_next.p_value > 0.5
    assert second.ties_with_best
    assert not third.ties_with_best
    assert third.to_best is not None
    assert third.to_best.difference == pytest.approx(-0.1)
    assert third.to_best.p_value < 1e-6
    assert third.to_best.ci_low < -0.1 < third.to_best.ci_high
    assert third.to_next is None
    assert first.to_base is not None
    assert first.to_base.difference == pytest.approx(0.5)
    assert first.to_donor is None
    assert first.held_out is None
    view = StudyView(definition(), [], study.user_attrs)
    vars(view)["records"] = records
    assert "3 layer sets on 1,200 question evaluations" in view.selection_note(held_out=False)
    assert "held-out" not in view.selection_note(held_out=False)
    assert view.selection_note(held_out=True).endswith("its held-out score is not")


def test_a_finished_search_compares_its_sets_with_the_base(tmp_path: Path) -> None:
    worker = worker_in(tmp_path)
    assert worker.run()
    study = study_in(tmp_path)
    found = [row.comparison for row in StudyView.of(definition(), study).compared]
    assert found[0] is not None
    assert found[0].to_base is not None
    assert found[0].to_base.questions == worker.evaluator.order.n_full
    assert found[0].to_base.ci_low > 0.2
    base = worker.evaluator.evaluate([LayerSet(())], 0, worker.evaluator.order.n_full)[0]
    assert isinstance(base, np.ndarray)
    assert study.user_attrs[keys.REFERENCE + "base"] == encode_answers(base)
    # The landscape has no donor, and the leaderboard lives with that.
    assert found[0].to_donor is None
    assert found[0].to_dict()["to_base"]["p_value"] < 1e-6
