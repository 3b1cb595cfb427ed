"""How a task scores a question: by one of its metrics, after one of its filters."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optlayers.config.fields import TaskSpec
from optlayers.config.metrics import LOGPROB
from optlayers.errors import EvaluationError, TaskError, reason

SCORED = ("multiple_choice", "loglikelihood")
# The module of lm-eval's own scoring; a task may have code of its own instead.
SCORING = "lm_eval.api.task"
MEANS = ("lm_eval.api.metrics.mean", "lm_eval.api.metrics.nanmean")


@dataclass(frozen=True)
class TaskScorer:
    """A leaf task, and the metric and the filter (lm-eval's `FilterEnsemble`) that score it.

    logprob: the score is the log-probability of the right answer; `metric` says which is right.
    """

    name: str
    task: Any
    metric: str
    filter: Any
    logprob: bool

    @classmethod
    def of(cls, name: str, task: Any, spec: TaskSpec) -> TaskScorer:
        """For a leaf task of a study's task; the filter is the task's first unless it names one.

        Raises `TaskError` where the task generates text, lacks the metric or the filter, or does
        not aggregate it by a mean for which higher is better.
        """
        if task.OUTPUT_TYPE not in SCORED:
            raise TaskError(
                f"task {name!r} is of type {task.OUTPUT_TYPE}; optlayers scores "
                f"{' and '.join(SCORED)} tasks, so choose one of these"
            )
        if getattr(task, "MULTIMODAL", False) or getattr(task, "UNSAFE_CODE", False):
            what = "images or sound" if getattr(task, "MULTIMODAL", False) else "code marked unsafe"
            raise TaskError(
                f"task {name!r} has {what}, which optlayers does not run; choose another"
            )
        logprob = spec.measure == LOGPROB
        metric = "acc" if logprob else spec.measure
        metrics = sorted(getattr(task, "_metric_fn_list", {}))
        if metrics and not _scores_itself(task) and metric not in metrics:
            raise TaskError(f"task {name!r} has no metric {metric!r}; it has {', '.join(metrics)}")
        if not logprob:
            _check_aggregation(name, task, metric)
        # Of two filters of one name the last counts, as in lm-eval's results.
        filters = {ensemble.name: ensemble for ensemble in task._filters}
        if not filters:
            raise TaskError(f"task {name!r}: its filter_list is empty; add a filter or remove it")
        chosen = spec.filter or next(iter(filters))
        if chosen not in filters:
            names = ", ".join(map(repr, filters))
            raise TaskError(f"task {name!r} has no filter {chosen!r}; it has {names}")
        return cls(name, task, metric, filters[chosen], logprob)

    def weighted_by_size(self, group: Any) -> bool:
        """Whether lm-eval weights the tasks of a group (None: a single task) by their size."""
        by_size = True
        for entry in (group.aggregate_metric_list or []) if group is not None else []:
            among = entry.filter_list is None or self.filter.name in entry.filter_list
            if entry.metric == self.metric and among:
                by_size = bool(entry.weight_by_size)
        return by_size

    def value(self, instances: Sequence[Any], results: Sequence[tuple[float, bool]]) -> float:
        """The metric of one question, 0 (wrong) to 1 (right).

        instances: lm-eval's, one for each request. results: (log-likelihood, is greedy) of each.
        Raises `TaskError` where the filter or the metric fails on one question or gives a value
        that is not from 0 to 1, and `EvaluationError` for NaN.
        """
        if any(r[0] != r[0] for r in results):
            raise EvaluationError(f"task {self.name!r}: NaN in the log-likelihoods")
        values = self._metrics(instances, results)
        if self.metric not in values:
            raise TaskError(
                f"task {self.name!r}, document {instances[0].doc_id}: it gives no {self.metric!r}; "
                f"it gives {', '.join(values) or 'nothing'}"
            )
        value = values[self.metric]
        number = isinstance(value, int | float | np.number | np.bool_)
        if not number or not 0.0 <= float(value) <= 1.0:
            raise TaskError(
                f"task {self.name!r}, document {instances[0].doc_id}: metric {self.metric!r} is "
                f"not a number from 0 to 1 (found {value!r}); choose acc or acc_norm"
            )
        return float(value)

    def _metrics(
        self, instances: Sequence[Any], results: Sequence[tuple[float, bool]]
    ) -> Mapping[str, Any]:
        """All metrics of one question, by lm-eval's own code or the task's."""
        key = self.filter.name
        try:
            for instance, result in zip(instances, results, strict=True):
                instance.resps = [result] * (instance.repeats or 1)
            self.filter.apply(instances)
            filtered = [instance.filtered_resps[key] for instance in instances]
            values: Mapping[str, Any] = self.task.process_results(instances[0].doc, filtered)
        except Exception as error:
            raise TaskError(
                f"task {self.name!r}, document {instances[0].doc_id}: metric {self.metric!r} after "
                f"filter {key!r} cannot be computed ({reason(error)}); choose another filter, or "
                "fix the task"
            ) from error
        return values

    @property
    def own_code(self) -> bool:
        """Whether the task's own code scores a document."""
        return _scores_itself(self.task)

    def given_metrics(self, instances: Sequence[Any]) -> set[str]:
        """The metrics that the task's own code gives for a question; it may leave some out.

        Raises `TaskError` where the answers decide whether the metric is given.
        """
        found: list[set[str]] = []
        for worst in (-1.0, -100.0):
            for best in {0, len(instances) - 1}:
                ends = [(-0.5 if i == best else worst, i == best) for i in range(len(instances))]
                # What fails for these may not fail for a model's answers.
                with contextlib.suppress(TaskError):
                    found.append(set(self._metrics(instances, ends)))
        if len({self.metric in names for names in found}) > 1:
            raise TaskError(
                f"task {self.name!r}, document {instances[0].doc_id}: whether it has a value of "
                f"{self.metric!r} depends on the model's answers, and a study compares layer sets "
                "on the same questions; choose another metric"
            )
        return set.union(*found) if found else {self.metric}

    def right_choices(self, instances: Sequence[Any]) -> NDArray[np.bool_] | None:
        """Which choices are right: bool [choices].

        None where more than the likeliest choice decides: another metric, a single continuation,
        or the task's own metric code or filters.
        """
        if not (
            (self.task.OUTPUT_TYPE == "multiple_choice" or len(instances) > 1)
            and self.metric == "acc"
            and not self.own_code
            and self.task.config.filter_list is None
            and "acc_mutual_info" not in getattr(self.task, "_metric_fn_list", {})
        ):
            return None
        # Let the task score each choice as the likeliest.
        results = np.where(np.eye(len(instances), dtype=np.bool_), 0.0, -1.0)
        return np.array(
            [self.value(instances, [(x, x == 0.0) for x in row]) == 1.0 for row in results]
        )


def _scores_itself(task: Any) -> bool:
    """Whether the task's own code scores a document, by its YAML or its class."""
    by_class = type(task).process_results.__module__ != SCORING
    return by_class or callable(task.config.process_results)


def _check_aggregation(name: str, task: Any, metric: str) -> None:
    """Raise `TaskError` unless the metric is a mean over questions, and higher is better."""
    how = task.aggregation().get(metric)
    called = f"{getattr(how, '__module__', '')}.{getattr(how, '__name__', type(how).__name__)}"
    if how is not None and called not in MEANS:
        raise TaskError(
            f"task {name!r} aggregates {metric} by {called.rpartition('.')[2]!r}, and a study "
            "takes the mean; choose another metric or task"
        )
    if task.higher_is_better().get(metric) is False:
        raise TaskError(
            f"task {name!r}: for {metric} lower is better, and a study maximizes; choose another "
            "metric"
        )
