"""Scores from answers: the base and the donors, each subject, fast against full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optlayers.layerset import BASE, DONOR, Labels
from optlayers.trials import keys
from optlayers.trials.answers import Answers, decode_answers
from optlayers.trials.statistics import StratifiedScore


@dataclass(frozen=True)
class Reference:
    """The base or a donor on all questions of the search; score and interval are 0 to 1.

    name: `base`, `donor`, or the name of one of several donors.
    """

    name: str
    score: float
    ci_low: float
    ci_high: float
    questions: int
    answers: Answers

    @property
    def title(self) -> str:
        """`base`, `donor`, or `donor a`."""
        return self.name if self.name in (BASE, DONOR) else f"donor {self.name}"


@dataclass(frozen=True)
class SubjectScore:
    """Shares of right answers in one subject: of the best layer set, the base, the first donor."""

    name: str
    questions: int
    weight: float
    winner: float
    base: float | None
    donor: float | None


@dataclass(frozen=True)
class FastAndFull:
    """The score of one layer set on the fast and on all questions."""

    layers: Labels
    fast: float
    full: float


def scorer_of(attrs: Mapping[str, Any]) -> StratifiedScore | None:
    """How a study scores answers, from its user attributes; None before its first worker."""
    strata, weights = attrs.get(keys.QUESTION_STRATA), attrs.get(keys.SUBJECT_WEIGHTS)
    if not strata or not weights:
        return None
    return StratifiedScore(strata=np.asarray(strata, np.intp), weights=np.asarray(weights))


def reference_answers(attrs: Mapping[str, Any], name: str) -> Answers | None:
    """The answers of the base or a donor, by name, to all questions of the search, or None."""
    packed, n_full = attrs.get(keys.REFERENCE + name), attrs.get(keys.N_FULL)
    return None if packed is None or n_full is None else decode_answers(packed, int(n_full))


def subject_scores(
    names: Sequence[str],
    scorer: StratifiedScore,
    answers: Answers,
    base: Answers | None,
    donor: Answers | None,
) -> list[SubjectScore]:
    """Scores in each subject that has questions among those of `answers` (of the winner)."""
    strata, size = scorer.strata[: len(answers)], len(names)
    asked = np.bincount(strata, minlength=size)

    def shares(of: Answers | None) -> list[Any]:
        if of is None:
            return [None] * size
        right = np.bincount(strata, weights=of[: len(answers)], minlength=size)
        return [float(share) for share in right / np.maximum(asked, 1)]

    weights = (scorer.weights / scorer.weights.sum()).tolist()
    columns = zip(names, asked.tolist(), weights, *map(shares, (answers, base, donor)), strict=True)
    return [SubjectScore(*values) for values in columns if values[1]]
