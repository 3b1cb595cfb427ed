"""Log-probabilities of right choices, from the logits into the trials of a study."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from optlayers.config.study import StudyDefinition, load_study
from optlayers.errors import EvaluationError
from optlayers.evaluation.base import Judged
from optlayers.evaluation.evaluator import ModelEvaluator
from optlayers.layerset import LayerSet
from optlayers.storage.connect import open_study
from optlayers.trials import keys
from optlayers.trials.answers import decode_answers
from optlayers.workers.worker import Worker


@pytest.fixture(scope="module")
def definition() -> StudyDefinition:
    study = load_study("demo")
    small = {"population": 16, "generations": 2, "patience": 2}
    return study.model_copy(update={"explore": study.explore.model_copy(update=small)})


def judged(evaluator: ModelEvaluator, layers: LayerSet, start: int, stop: int) -> Judged:
    (found,) = evaluator.judge([layers], start, stop)
    assert not isinstance(found, EvaluationError)
    return found


def test_logs_are_those_of_the_right_choice_among_the_choices(evaluator: ModelEvaluator) -> None:
    layers, order = LayerSet.of(0, 11), evaluator.order
    n = order.n_fast
    questions = evaluator.tasks.questions(order.subject[:n].tolist(), order.document[:n].tolist())
    found = judged(evaluator, layers, 0, n)
    sums = evaluator.engine.likelihoods([layers], questions)[0, :, 0]
    assert found.logs is not None
    start = 0
    for q, question in enumerate(questions):
        mine = sums[start : start + len(question.requests)]
        start += len(question.requests)
        won = evaluator.tasks.winners(question)
        assert won is not None
        (right,) = np.flatnonzero(won)
        shares = np.exp(mine - mine.max())
        assert found.logs[q] == pytest.approx(np.log(shares[right] / shares.sum()), abs=1e-4)
        assert found.answers[q] == (mine.argmax() == right)


def test_log_probabilities_end_with_the_fast_questions(
    evaluator: ModelEvaluator,
) -> None:
    fast = evaluator.order.n_fast
    assert judged(evaluator, LayerSet.of(3), fast, fast + 4).logs is None


def test_each_trial_keeps_what_the_halves_of_its_rungs_say(
    definition: StudyDefinition, evaluator: ModelEvaluator, tmp_path: Path
) -> None:
    study = open_study(f"sqlite:///{tmp_path / 'halves.db'}", definition)
    Worker(definition, study, evaluator).run()
    fast = evaluator.order.n_fast
    checked, went_on = 0, 0
    for trial in study.get_trials(deepcopy=False):
        if keys.ANSWERS not in trial.user_attrs:
            continue
        attrs = trial.user_attrs
        answers = decode_answers(attrs[keys.ANSWERS], attrs[keys.QUESTIONS])
        rows = attrs[keys.HALVES]
        if len(answers) <= fast:
            assert rows[-1][0] == len(answers)
        assert rows[-1][0] <= fast  # what goes from there to all questions skips the rungs between
        for n, *means in rows:
            first = answers[: int(n)]
            assert means[:2] == pytest.approx([first[::2].mean(), first[1::2].mean()], abs=1e-5)
        checked += 1
        if len(rows) > 1 and went_on < 3:
            # Answered in parts, by one trial or by several.
            went_on += 1
            n = int(rows[-1][0])
            logs = judged(evaluator, LayerSet.parse(attrs[keys.LAYERS]), 0, n).logs
            assert logs is not None
            assert rows[-1][3:] == pytest.approx([logs[::2].mean(), logs[1::2].mean()], abs=1e-3)
    assert checked > 20
    assert went_on == 3


def test_several_tasks_have_no_common_log_probabilities(definition: StudyDefinition) -> None:
    parts = [
        definition.tasks[0].model_copy(update={"name": name})
        for name in ("demo_capitals", "demo_elements")
    ]
    two = definition.model_copy(update={"tasks": parts})
    evaluator = ModelEvaluator(two, torch.device("cpu"), torch.float32)
    found = judged(evaluator, LayerSet.of(3), 0, 4)
    assert found.logs is None
    assert len(found.answers) == 4
