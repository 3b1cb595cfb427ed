"""The private names of lm-eval that the tasks rely on."""

from __future__ import annotations

import inspect

import pytest
from lm_eval.api.task import ConfigurableTask, MultipleChoiceTask
from lm_eval.models.huggingface import HFLM

from optlayers.evaluation.scoring import SCORING

WHERE = "lm-eval has moved private names: adapt evaluation/tasks.py and evaluation/scoring.py"


@pytest.mark.parametrize("name", ["_loglikelihood_tokens"])
def test_the_model_class_has_the_names_that_the_tasks_use(name: str) -> None:
    assert hasattr(HFLM, name), WHERE


@pytest.mark.parametrize("name", ["_filters", "_metric_fn_list"])
def test_a_task_has_the_names_that_scores_are_made_with(name: str) -> None:
    assert f"self.{name}" in inspect.getsource(ConfigurableTask), WHERE


@pytest.mark.parametrize("kind", [ConfigurableTask, MultipleChoiceTask])
def test_lm_evals_own_scoring_is_told_from_that_of_a_task(kind: type) -> None:
    assert kind.process_results.__module__ == SCORING, WHERE  # type: ignore[attr-defined]
