"""Asking an evaluator, with an eye on how long it takes: it may hang."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from optlayers.config.fields import CostKind
from optlayers.errors import EvaluationError
from optlayers.evaluation.base import Evaluator, Judged
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.storage.heartbeat import Heartbeats
from optlayers.storage.signals import raise_interrupt
from optlayers.trials.answers import Answers
from optlayers.trials.cost import Table

T = TypeVar("T")

# An evaluation hangs when it lasts so many times longer than the slowest so far, and at least so
# long; the first one, of which nothing is known, when it lasts hours.
HANG_FACTOR, HANG_LEAST, HANG_FIRST = 20.0, 600.0, 4 * 3600.0


class Asked(Evaluator):
    """An evaluator whose evaluations the heart watches.

    hang_seconds: the longest that one may take (None: by the pace so far).
    """

    def __init__(
        self, evaluator: Evaluator, heartbeats: Heartbeats, hang_seconds: float | None
    ) -> None:
        self.evaluator, self.heartbeats, self.hang_seconds = evaluator, heartbeats, hang_seconds
        self.n_layers, self.order = evaluator.n_layers, evaluator.order
        self._pace = 0.0  # seconds of one question of one set, at the slowest

    def evaluate(
        self, layer_sets: Sequence[LayerSet], start: int, stop: int
    ) -> Sequence[Answers | EvaluationError]:
        """The evaluator's."""
        return self._watch(
            layer_sets, stop - start, lambda: self.evaluator.evaluate(layer_sets, start, stop)
        )

    def held_out(self, layer_sets: Sequence[LayerSet]) -> Sequence[Answers | EvaluationError]:
        """The evaluator's."""
        questions = len(self.order.held_subject)
        return self._watch(layer_sets, questions, lambda: self.evaluator.held_out(layer_sets))

    def judge(
        self, layer_sets: Sequence[LayerSet], start: int, stop: int
    ) -> Sequence[Judged | EvaluationError]:
        """The evaluator's."""
        return self._watch(
            layer_sets, stop - start, lambda: self.evaluator.judge(layer_sets, start, stop)
        )

    def costs(self, kind: CostKind, space: LayerSpace) -> Table:
        """The evaluator's."""
        return self.evaluator.costs(kind, space)

    @property
    def hardware(self) -> str:
        """The evaluator's."""
        return self.evaluator.hardware

    def _watch(self, sets: Sequence[LayerSet], questions: int, ask: Callable[[], T]) -> T:
        """What is asked; the heart watches how long it takes."""
        work = len(sets) * questions
        least = HANG_LEAST if self._pace else HANG_FIRST
        limit = self.hang_seconds or max(least, HANG_FACTOR * self._pace * work)
        raise_interrupt()
        began = time.monotonic()
        self.heartbeats.allow(limit)
        try:
            return ask()
        finally:
            self.heartbeats.allow(None)
            seconds = time.monotonic() - began
            self._pace = max(self._pace, seconds / max(1, work))
