"""The shipped demo: its effect, its recorded truth, and that the engine still gives it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from optlayers.config.study import StudyDefinition, load_study
from optlayers.errors import EvaluationError
from optlayers.evaluation.evaluator import ModelEvaluator
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.testing import Landscape
from studies.demo.build import make_tasks as maker
from studies.demo.build import questions as demo
from tests.helpers.fresh import run_fresh
from tests.helpers.paths import DEMO

BEST = LayerSet.of(0, 10, 11, 15)


@pytest.fixture(scope="module")
def landscape() -> Landscape:
    return Landscape.load(DEMO / "landscape.npz")


@pytest.fixture(scope="module")
def definition() -> StudyDefinition:
    return load_study("demo")


def test_the_landscape_holds_every_set_of_up_to_four_layers(landscape: Landscape) -> None:
    assert sorted(landscape.index) == sorted(LayerSpace(16, 0, 4))
    assert landscape.answers.shape == (2517, landscape.order.n_full)


def test_the_landscape_has_the_questions_of_the_study(
    landscape: Landscape, evaluator: ModelEvaluator
) -> None:
    assert landscape.order.n_fast == evaluator.order.n_fast
    np.testing.assert_array_equal(landscape.order.subject, evaluator.order.subject)
    np.testing.assert_array_equal(landscape.order.document, evaluator.order.document)


def test_one_set_is_best_and_no_single_layer_suffices(landscape: Landscape) -> None:
    scores = landscape.scores()
    ranked = sorted(scores, key=lambda s: -scores[s])
    assert ranked[0] == BEST
    assert scores[BEST] >= 0.90
    assert scores[ranked[1]] < scores[BEST]
    assert scores[LayerSet(())] <= 0.40
    assert max(scores[LayerSet.of(i)] for i in range(16)) <= 0.75
    without = [scores[LayerSet(tuple(set(BEST) - {i}))] for i in BEST]
    assert sum(scores[BEST] - score > 0.05 for score in without) >= 3


def test_the_engine_gives_the_recorded_answers(
    landscape: Landscape, evaluator: ModelEvaluator
) -> None:
    sets = [LayerSet(()), LayerSet.of(0), BEST, LayerSet.of(0, 10, 15), LayerSet.of(2, 5, 9, 15)]
    found = evaluator.evaluate(sets, 0, 64)
    for layers, answers in zip(sets, found, strict=True):
        assert not isinstance(answers, EvaluationError)
        np.testing.assert_array_equal(answers, landscape.answers[landscape.index[layers], :64])


def test_the_donor_knows_nearly_everything(evaluator: ModelEvaluator) -> None:
    donor = evaluator.evaluate([LayerSet(tuple(range(16)))], 0, 192)[0]
    assert not isinstance(donor, EvaluationError)
    assert donor.mean() >= 0.95


def test_both_models_are_small() -> None:
    for name in ("base", "donor"):
        assert sum(f.stat().st_size for f in (DEMO / name).iterdir()) <= 8_000_000
    assert (DEMO / "landscape.npz").stat().st_size <= 3_000_000


LOAD = """
import sys, time
from lm_eval.tasks import TaskManager
start = time.perf_counter()
manager = TaskManager(include_path=sys.argv[1], include_defaults=False)
tasks = manager.load(["demo"])["tasks"]
print(len(tasks), sum(len(task.eval_docs) for task in tasks.values()))
print(time.perf_counter() - start)
"""


def test_the_tasks_load_anywhere_offline_and_without_a_home(tmp_path: Path) -> None:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))
    }
    environment |= {"HF_HUB_OFFLINE": "1", "HOME": "/nonexistent"}
    said = run_fresh(LOAD, demo.TASKS_DIR, cwd=tmp_path, env=environment, timeout=300)
    counts, seconds = said.splitlines()[-2:]
    assert counts == f"8 {8 * maker.QUESTIONS}"
    assert float(seconds) < 10  # under a second on an idle machine
    assert not list(tmp_path.iterdir())
