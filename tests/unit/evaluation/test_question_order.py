from __future__ import annotations

import numpy as np
import pytest

from optlayers.config.fields import Questions
from optlayers.evaluation.questions import Subject, order_questions
from optlayers.trials.statistics import StratifiedScore

SUBJECTS = [Subject("a", 100, 0.5), Subject("b", 40, 0.2), Subject("c", 7, 0.3)]


def test_the_order_is_the_same_every_time_and_another_for_another_seed() -> None:
    one, two = (order_questions(SUBJECTS, Questions(fast=5)) for _ in range(2))
    np.testing.assert_array_equal(one.document, two.document)
    other = order_questions(SUBJECTS, Questions(fast=5, seed=1))
    assert not np.array_equal(one.document, other.document)


def test_every_question_is_asked_once() -> None:
    order = order_questions(SUBJECTS, Questions(fast=5))
    asked = set(zip(order.subject.tolist(), order.document.tolist(), strict=True))
    assert len(asked) == order.n_full == 147
    assert order.weights.sum() == pytest.approx(1.0)


def test_the_fast_questions_come_first_and_are_as_many_of_each_subject() -> None:
    order = order_questions(SUBJECTS, Questions(fast=10))
    assert order.n_fast == 27  # ten, ten, and all seven
    assert np.bincount(order.subject[: order.n_fast]).tolist() == [10, 10, 7]


def test_any_prefix_holds_the_share_of_each_subject() -> None:
    order = order_questions(SUBJECTS, Questions(fast=None))
    sizes = np.array([100, 40, 7])
    for n in range(1, order.n_full + 1):
        found = np.bincount(order.subject[:n], minlength=3)
        assert np.abs(found - sizes * n / 147).max() < 2.0


def test_held_out_questions_are_asked_by_no_search() -> None:
    order = order_questions(SUBJECTS, Questions(fast=5, full=20, holdout=0.25))
    asked = set(zip(order.subject.tolist(), order.document.tolist(), strict=True))
    held = set(zip(order.held_subject.tolist(), order.held_document.tolist(), strict=True))
    assert not asked & held
    assert np.bincount(order.held_subject).tolist() == [25, 10, 2]
    assert np.bincount(order.subject).tolist() == [20, 20, 5]


def test_another_subject_beside_it_does_not_change_which_questions_are_chosen() -> None:
    questions = Questions(fast=5, full=20)
    alone = order_questions(SUBJECTS[:1], questions)
    beside = order_questions(SUBJECTS, questions)
    assert set(alone.document.tolist()) == set(beside.document[beside.subject == 0].tolist())


def test_fast_questions_count_what_they_count_in_the_score_on_them() -> None:
    order = order_questions(SUBJECTS, Questions(fast=10))
    right = np.random.default_rng(0).random(order.n_fast) < 0.5
    score = StratifiedScore(strata=order.subject, weights=order.weights).score(right)
    assert order.fast_weights @ right == pytest.approx(score)
    few = order_questions([*SUBJECTS, Subject("d", 1, 1.0)], Questions(fast=1))
    assert few.fast_weights.sum() == pytest.approx(1.0)
