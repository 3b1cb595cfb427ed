"""Parts of tests of the engine and its kernels."""

from __future__ import annotations

import torch

from optlayers.evaluation.questions import Question


class EveryLikelihood:
    """Tasks that look at every likelihood, so that the engine may skip none."""

    def value(self, question: Question, results: object) -> float:
        return 1.0

    def winners(self, question: Question) -> None:
        return None


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The norm of the difference over the norm of what is wanted."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())
