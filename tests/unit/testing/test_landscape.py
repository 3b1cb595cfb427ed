from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest

import optlayers.testing
from optlayers.config.fields import Questions
from optlayers.errors import EvaluationError, InputError
from optlayers.evaluation.questions import Subject, order_questions
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.testing import Landscape, ReplayEvaluator

SUBJECTS = [Subject("capitals", 9, 0.75), Subject("recall", 4, 0.25)]
SETS = list(LayerSpace(5, 0, 2))


@pytest.fixture
def landscape() -> Landscape:
    order = order_questions(SUBJECTS, Questions(fast=2))
    answers = np.random.default_rng(0).random((len(SETS), order.n_full)) < 0.5
    return Landscape.of(5, order, SETS, answers)


def test_what_is_saved_is_what_is_loaded(landscape: Landscape, tmp_path: Path) -> None:
    landscape.save(tmp_path / "landscape.npz")
    again = Landscape.load(tmp_path / "landscape.npz")
    assert again.n_layers == 5
    assert again.index == landscape.index
    np.testing.assert_array_equal(again.answers, landscape.answers)
    assert again.answers.dtype == np.bool_
    assert again.order.subjects == landscape.order.subjects
    assert again.order.n_fast == landscape.order.n_fast
    np.testing.assert_array_equal(again.order.subject, landscape.order.subject)
    np.testing.assert_array_equal(again.order.document, landscape.order.document)
    assert again.scores() == landscape.scores()


def test_the_last_of_sixty_four_layers_survives(tmp_path: Path) -> None:
    order = order_questions(SUBJECTS, Questions(fast=2))
    sets = [LayerSet.of(0, 63), LayerSet.of(62)]
    answers = np.zeros((2, order.n_full), dtype=np.bool_)
    Landscape.of(64, order, sets, answers).save(tmp_path / "deep.npz")
    assert list(Landscape.load(tmp_path / "deep.npz").index) == sets


def test_a_score_weighs_each_subject_by_its_weight(landscape: Landscape) -> None:
    row = landscape.answers[3]
    means = [row[landscape.order.subject == s].mean() for s in range(2)]
    expected = 0.75 * means[0] + 0.25 * means[1]
    assert landscape.scores()[SETS[3]] == pytest.approx(expected)


def test_a_replay_gives_the_recorded_slice_of_each_set(landscape: Landscape) -> None:
    evaluator = ReplayEvaluator(landscape)
    asked = [LayerSet.of(1, 3), LayerSet.of()]
    found = evaluator.evaluate(asked, 2, 7)
    for layers, answers in zip(asked, found, strict=True):
        np.testing.assert_array_equal(answers, landscape.answers[SETS.index(layers), 2:7])
    first = found[0]
    assert isinstance(first, np.ndarray)
    first[:] = ~first
    np.testing.assert_array_equal(evaluator.evaluate(asked, 2, 7)[0], ~first)
    assert all(isinstance(a, np.ndarray) and not a.size for a in evaluator.held_out(asked))
    [missing] = evaluator.evaluate([LayerSet.of(0, 1, 2, 3)], 0, 1)
    assert str(missing) == "layer set 0,1,2,3 is not in the landscape"


def test_what_an_evaluator_answers_is_recorded(landscape: Landscape) -> None:
    again = Landscape.record(ReplayEvaluator(landscape), SETS)
    assert again.scores() == landscape.scores()
    with pytest.raises(EvaluationError, match="layer set 0,1,2,3 is not in the landscape"):
        Landscape.record(ReplayEvaluator(landscape), [LayerSet.of(0, 1, 2, 3)])


def test_the_example_of_the_package_runs(tmp_path: Path) -> None:
    done = doctest.testmod(optlayers.testing, extraglobs={"folder": tmp_path})
    assert done.attempted > 10
    assert done.failed == 0


def test_a_replay_file_sets_faults_and_the_log(landscape: Landscape, tmp_path: Path) -> None:
    landscape.save(tmp_path / "landscape.npz")
    path = tmp_path / "replay.yaml"
    path.write_text('landscape: landscape.npz\nlog: asked\nfaults: {"1": nan, "2": raise}\n')
    evaluator = ReplayEvaluator.load(path)
    nan, good = evaluator.evaluate([LayerSet.of(1), LayerSet.of(3)], 2, 5)
    assert isinstance(nan, EvaluationError)
    np.testing.assert_array_equal(good, landscape.answers[landscape.index[LayerSet.of(3)], 2:5])
    with pytest.raises(RuntimeError, match="the evaluation of 2 broke down"):
        evaluator.evaluate([LayerSet.of(2)], 0, 1)
    (log,) = (tmp_path / "asked").iterdir()
    assert log.read_text() == "1 2 5 1\n1 2 5 3\n"
    path.write_text("landscape: landscape.npz\nspeed: 3\n")
    with pytest.raises(InputError, match=r"replay file .*replay\.yaml: 1 validation error"):
        ReplayEvaluator.load(path)


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04", "npz"])
def test_a_file_that_is_no_landscape_is_one_line(
    tmp_path: Path, content: bytes | str | None
) -> None:
    path = tmp_path / "landscape.npz"
    if content == "npz":
        np.savez(path, n_layers=3)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"landscape .*landscape\.npz.*record it again") as caught:
        Landscape.load(path)
    assert "\n" not in str(caught.value)
