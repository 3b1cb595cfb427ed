"""WatchedEvaluator: an evaluator that may hang, with a limit on how long an evaluation takes."""

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

# An evaluation hangs when it takes so many times longer than the slowest so far, and at least so
# many seconds; the first one, when it takes hours.
HANG_FACTOR, HANG_LEAST, HANG_FIRST = 20.0, 600.0, 4 * 3600.0


class WatchedEvaluator(Evaluator):
    """An evaluator whose evaluations have a time limit: `heartbeats.on_hang` is called after it.

    hang_seconds: the limit; None: by the slowest evaluation so far.
    """

    def __init__(
        self, evaluator: Evaluator, heartbeats: Heartbeats, hang_seconds: float | None
    ) -> None:
        self.evaluator, self.heartbeats, self.hang_seconds = evaluator, heartbeats, hang_seconds
        self.n_layers, self.order = evaluator.n_layers, evaluator.order
        self._slowest = 0.0  # seconds of one question of one set

    def evaluate(
        self, layer_sets: Sequence[LayerSet], start: int, stop: int
    ) -> Sequence[Answers | EvaluationError]:
        """As the evaluator does."""
        work = len(layer_sets) * (stop - start)
        return self._limited(work, lambda: self.evaluator.evaluate(layer_sets, start, stop))

    def held_out(self, layer_sets: Sequence[LayerSet]) -> Sequence[Answers | EvaluationError]:
        """As the evaluator does."""
        work = len(layer_sets) * len(self.order.held_subject)
        return self._limited(work, lambda: self.evaluator.held_out(layer_sets))

    def judge(
        self, layer_sets: Sequence[LayerSet], start: int, stop: int
    ) -> Sequence[Judged | EvaluationError]:
        """As the evaluator does."""
        work = len(layer_sets) * (stop - start)
        return self._limited(work, lambda: self.evaluator.judge(layer_sets, start, stop))

    def costs(self, kind: CostKind, space: LayerSpace) -> Table:
        """As the evaluator does; without a limit."""
        return self.evaluator.costs(kind, space)

    @property
    def hardware(self) -> str:
        """That of the evaluator."""
        return self.evaluator.hardware

    def _limited(self, work: int, evaluate: Callable[[], T]) -> T:
        """Evaluate `work` answers under the time limit."""
        least = HANG_LEAST if self._slowest else HANG_FIRST
        limit = self.hang_seconds or max(least, HANG_FACTOR * self._slowest * work)
        raise_interrupt()
        began = time.monotonic()
        self.heartbeats.allow(limit)
        try:
            return evaluate()
        finally:
            self.heartbeats.allow(None)
            seconds = time.monotonic() - began
            self._slowest = max(self._slowest, seconds / max(1, work))
