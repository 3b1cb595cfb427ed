"""How a task scores a question: by one of its metrics, after one of its filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optlayers.config.metrics import LOGPROB
from optlayers.config.study import TaskSpec
from optlayers.errors import EvaluationError, TaskError

SCORED = ("multiple_choice", "loglikelihood")
MEANS = ("lm_eval.api.metrics.mean", "lm_eval.api.metrics.nanmean")


def why(error: Exception) -> str:
    """An exception of lm-eval, or of what it uses, in a line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__


def _check_aggregation(name: str, task: Any, metric: str) -> None:
    """Raise `TaskError` where the metric's mean over questions is not what is to be maximised."""
    how = task.aggregation().get(metric)
    called = f"{getattr(how, '__module__', '')}.{getattr(how, '__name__', type(how).__name__)}"
    if how is not None and called not in MEANS:
        raise TaskError(
            f"task {name!r} takes {metric} together by {called.rpartition('.')[2]!r}, and a study "
            "by the mean; choose another metric or task"
        )
    if task.higher_is_better().get(metric) is False:
        raise TaskError(
            f"task {name!r}: of {metric} lower is better, and a study maximises; choose another "
            "metric"
        )


@dataclass(frozen=True)
class Judge:
    """A leaf task, and the metric and the filter (lm-eval's `FilterEnsemble`) that count of it."""

    name: str
    task: Any
    metric: str
    filter: Any

    @classmethod
    def of(cls, name: str, task: Any, spec: TaskSpec) -> Judge:
        """As a study names it: of `logprob`, accuracy says which answer is right.

        Without a filter in the study it is the task's first. Raises `TaskError` where the task
        generates text, lacks the metric or the filter, or wants other than a high mean of it.
        """
        if task.OUTPUT_TYPE not in SCORED:
            raise TaskError(
                f"task {name!r} is of type {task.OUTPUT_TYPE}; optlayers scores "
                f"{' and '.join(SCORED)} tasks, so choose one of these"
            )
        metrics = sorted(getattr(task, "_metric_fn_list", {}))
        metric = "acc" if spec.measure == LOGPROB else spec.measure
        if metrics and not callable(task.config.process_results) and metric not in metrics:
            raise TaskError(f"task {name!r} has no metric {metric!r}; it has {', '.join(metrics)}")
        if spec.measure != LOGPROB:
            _check_aggregation(name, task, metric)
        # Of two filters of one name the last counts, as in lm-eval's results.
        filters = {ensemble.name: ensemble for ensemble in task._filters}
        if not filters:
            raise TaskError(f"task {name!r}: its filter_list is empty; give it one, or none at all")
        chosen = spec.filter or next(iter(filters))
        if chosen not in filters:
            names = ", ".join(map(repr, filters))
            raise TaskError(f"task {name!r} has no filter {chosen!r}; it has {names}")
        return cls(name, task, metric, filters[chosen])

    def weighted_by_size(self, group: Any) -> bool:
        """How lm-eval aggregates this metric and filter over a group; a single task is by size."""
        by_size = True
        for entry in (group.aggregate_metric_list or []) if group is not None else []:
            among = entry.filter_list is None or self.filter.name in entry.filter_list
            if entry.metric == self.metric and among:
                by_size = bool(entry.weight_by_size)
        return by_size

    @property
    def by_likeliest(self) -> bool:
        """Whether the likeliest choice alone decides: no code or filter of the task's own."""
        return bool(
            self.task.OUTPUT_TYPE == "multiple_choice"
            and self.metric == "acc"
            and not callable(self.task.config.process_results)
            and self.task.config.filter_list is None
            and "acc_mutual_info" not in getattr(self.task, "_metric_fn_list", {})
        )

    def value(self, instances: Sequence[Any], results: Sequence[tuple[float, bool]]) -> float:
        """What the metric gives for a question, 0 (wrong) to 1 (right): lm-eval's instances of its
        requests, and (log-likelihood, is greedy) of each.

        Raises `TaskError` where the filter or the metric cannot be had of it, or is no number from
        0 to 1 for one question, and `EvaluationError` for NaN.
        """
        if any(r[0] != r[0] for r in results):
            raise EvaluationError(f"task {self.name!r}: NaN in the log-likelihoods")
        key = self.filter.name
        try:
            for instance, result in zip(instances, results, strict=True):
                instance.resps = [result]
            self.filter.apply(instances)
            filtered = [instance.filtered_resps[key] for instance in instances]
            values = self.task.process_results(instances[0].doc, filtered)
        except Exception as error:
            raise TaskError(
                f"task {self.name!r}: metric {self.metric!r} after filter {key!r} cannot be had of "
                f"one question ({why(error)}); choose another filter, or mend the task"
            ) from error
        if self.metric not in values:
            raise TaskError(
                f"task {self.name!r} gives no {self.metric!r}; it gives {', '.join(values)}"
            )
        value = values[self.metric]
        number = isinstance(value, int | float | np.number | np.bool_)
        if not number or not 0.0 <= float(value) <= 1.0:
            raise TaskError(
                f"task {self.name!r}: metric {self.metric!r} is no number from 0 to 1 for one "
                f"question (found {value!r}); choose acc or acc_norm"
            )
        return float(value)
