"""Groups of lm-eval: their members, and how much each task of a group counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optlayers.config.fields import TaskSpec
from optlayers.errors import TaskError
from optlayers.evaluation.scoring import TaskScorer


def unknown_members(manager: Any, names: Sequence[str]) -> set[str]:
    """Which of the names and of the members of their groups a task manager does not know."""
    known: set[str] = set()
    todo: list[Any] = list(names)
    while todo:
        member = todo.pop()
        inner = member if isinstance(member, dict) else {}
        name = str(inner.get("group") or inner.get("task") if inner else member)
        if name not in known:
            known.add(name)
            entry = manager.task_index.get(name)
            inner = (entry.cfg or {}) if entry else {}
        todo += inner["task"] if isinstance(inner.get("task"), list) else []
    return known - set(manager.all_tasks)


def shares(
    spec: TaskSpec, group: Any, scorers: Sequence[TaskScorer], sizes: Sequence[int]
) -> list[float]:
    """What each leaf task of a study's task adds to its weight, as lm-eval weights a group.

    group: lm-eval's (None: a single task, or a tag). Raises `TaskError` where the tasks of a group
    are scored after different filters.
    """
    filters = {scorer.filter.name: "" for scorer in scorers if not scorer.logprob}
    if group is not None and len(filters) > 1:
        names = ", ".join(filters)
        raise TaskError(
            f"task {spec.name!r}: the first filters of its tasks differ ({names}), and lm-eval "
            f"scores a group by one; name it, as in {spec.measure},{min(filters)}"
        )
    leaves = [task.task_name for task in group.get_all_tasks()] if group is not None else []
    by_size = scorers[0].weighted_by_size(group)
    parts = [
        # A task counts as often as subgroups name it.
        max(1, leaves.count(scorer.name)) * (size if by_size else 1)
        for scorer, size in zip(scorers, sizes, strict=True)
    ]
    return [spec.weight * part / sum(parts) for part in parts]
