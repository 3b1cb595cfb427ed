"""The interface of what answers a study's questions with layer sets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optlayers.config.fields import CostKind
from optlayers.errors import EvaluationError
from optlayers.evaluation.questions import QuestionOrder
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.trials.answers import Answers
from optlayers.trials.cost import Table, counted


class Judged(NamedTuple):
    """The answers of a layer set to n questions, and how likely the right choices were.

    answers: bool [n], or float [n] in [0, 1]. logs: float [n], the log-probability of the right
    choice among the choices, in nats; None where the evaluator does not know it.
    """

    answers: Answers
    logs: NDArray[np.float64] | None = None


class Evaluator(ABC):
    """Answers the questions of a study with layer sets; a worker needs nothing else of the models.

    A subclass sets `n_layers` and `order` and defines `evaluate`. `ModelEvaluator` runs the two
    models; `optlayers.testing.ReplayEvaluator` looks up recorded answers.
    """

    n_layers: int
    order: QuestionOrder

    @abstractmethod
    def evaluate(
        self, layer_sets: Sequence[LayerSet], start: int, stop: int
    ) -> Sequence[Answers | EvaluationError]:
        """The answers [stop - start] of each set to a slice of `order`, or the error it met."""

    def judge(
        self, layer_sets: Sequence[LayerSet], start: int, stop: int
    ) -> Sequence[Judged | EvaluationError]:
        """`evaluate`, with log-probabilities where they are known; by default without."""
        return [
            found if isinstance(found, EvaluationError) else Judged(found)
            for found in self.evaluate(layer_sets, start, stop)
        ]

    def held_out(self, layer_sets: Sequence[LayerSet]) -> Sequence[Answers | EvaluationError]:
        """The answers of each set to the held-out questions; by default there are none."""
        return [np.zeros(0, dtype=np.bool_) for _ in layer_sets]

    def costs(self, kind: CostKind, space: LayerSpace) -> Table:
        """What each layer costs from the base and each donor; by default a donor's layer is 1."""
        return counted(space)

    @property
    def hardware(self) -> str:
        """The name of the GPU in use; empty where there is none."""
        return ""
