"""References: the base and the donor themselves on the questions of the search.

They are outside of any layer budget, so no trial holds them; yet every score means something only
between the two. They are answered once, when the search is done, and kept with the study.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import optuna
from numpy.typing import NDArray

from optlayers.errors import EvaluationError
from optlayers.evaluation.questions import QuestionOrder
from optlayers.layerset import LayerSet
from optlayers.search import StratifiedScore, decode_answers, encode_answers

KEY = "reference:"
NAMES = ("base", "donor")


class ReferenceEvaluator(Protocol):
    """What answers the questions of the search."""

    n_layers: int
    order: QuestionOrder

    def evaluate(
        self, layer_sets: Sequence[LayerSet], start: int, stop: int
    ) -> Sequence[NDArray[np.bool_] | EvaluationError]:
        """Right or wrong [stop - start] of each set, or the error that it met."""
        ...


@dataclass(frozen=True)
class Reference:
    """Base or donor on all questions of the search; score and interval in [0, 1]."""

    name: str
    score: float
    ci_low: float
    ci_high: float
    questions: int
    answers: NDArray[np.bool_]


def check(study: optuna.Study, evaluator: ReferenceEvaluator, turn: int) -> None:
    """Answer what is not answered yet; workers of different `turn` begin at different ends."""
    order = evaluator.order
    scorer = StratifiedScore(strata=order.subject, weights=order.weights)
    everything = LayerSet(tuple(range(evaluator.n_layers)))
    for name in NAMES[:: -1 if turn % 2 else 1]:
        if f"{KEY}{name}" in study.user_attrs:
            continue
        layers = LayerSet(()) if name == "base" else everything
        [answers] = evaluator.evaluate([layers], 0, order.n_full)
        if isinstance(answers, EvaluationError):
            continue
        found = scorer.interval(answers)
        study.set_user_attr(
            f"{KEY}{name}",
            {
                **found._asdict(),
                "questions": len(answers),
                "answers": encode_answers(answers),
            },
        )


def results(attrs: dict[str, Any]) -> dict[str, Reference]:
    """The references that the study's user attributes hold, by name."""
    found = {}
    for name in NAMES:
        value = attrs.get(f"{KEY}{name}")
        if value is not None:
            numbers = {k: value[k] for k in ("score", "ci_low", "ci_high", "questions")}
            answers = decode_answers(value["answers"], value["questions"])
            found[name] = Reference(name=name, answers=answers, **numbers)
    return found
