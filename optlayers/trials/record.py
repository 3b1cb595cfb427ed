"""Record: what a trial says about its layer set."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from optuna.trial import TrialState

from optlayers.layerset import LayerSet
from optlayers.trials import keys


class Halves(NamedTuple):
    """Means over the even and the odd of some first questions: right answers, log-probabilities."""

    right: tuple[float, float]
    logs: tuple[float, float]


# Right or wrong, bool; or values in [0, 1], float, where a study has other metrics.
Answers = npt.NDArray[Any]


@dataclass(frozen=True)
class Record:
    """One trial, reduced to what the search needs.

    `questions` is the number that `score` rests on (None where a plain study says nothing);
    `score` is None until something was reported; `phase`, `goal` and `fidelity` are empty for
    trials that plain Optuna code made. `intermediate` maps questions to the score there, `halves`
    to what the two halves of them say.
    """

    number: int
    state: TrialState
    layers: LayerSet
    phase: str = ""
    goal: str = ""
    questions: int | None = None
    score: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    fidelity: str = ""
    evaluated: int = 0
    generation: int | None = None
    round: int | None = None
    worker: str = ""
    reason: str = ""
    packed_answers: str = field(default="", repr=False)
    intermediate: Mapping[int, float] = field(default_factory=dict, repr=False, hash=False)
    halves: Mapping[int, Halves] = field(default_factory=dict, repr=False, hash=False)

    # Asked thousands of times a proposal, and a record never changes: computed once.
    @cached_property
    def is_claimed(self) -> bool:
        """Whether a worker is on it, or will be (RUNNING or WAITING)."""
        return self.state in (TrialState.RUNNING, TrialState.WAITING)

    @cached_property
    def is_evaluated(self) -> bool:
        """Whether it ended with a finite score (COMPLETE or PRUNED)."""
        return (
            self.state in (TrialState.COMPLETE, TrialState.PRUNED)
            and self.score is not None
            and math.isfinite(self.score)
        )

    @cached_property
    def is_full(self) -> bool:
        """Whether it was evaluated on all questions (a plain trial: whether it is COMPLETE)."""
        if not self.is_evaluated:
            return False
        return self.fidelity == "full" or (not self.fidelity and self.state == TrialState.COMPLETE)

    @property
    def halves_as_stored(self) -> list[list[float]]:
        """The rows of `keys.HALVES`."""
        return [[n, *halves.right, *halves.logs] for n, halves in sorted(self.halves.items())]

    @cached_property
    def first_score(self) -> float | None:
        """The score at the first rung: the one number that all trials of a study have alike."""
        return self.intermediate[min(self.intermediate)] if self.intermediate else self.score

    @cached_property
    def answers(self) -> Answers | None:
        """What the first `questions` questions gave, bool or float in [0, 1], or None."""
        if not self.packed_answers or self.questions is None:
            return None
        return decode_answers(self.packed_answers, self.questions)


# Before values that are not 0 or 1; base64 itself has no colon.
_REAL = "u16:"
_STEPS = 65535


def as_stored(values: Answers) -> Answers:
    """Values in [0, 1] as `encode_answers` keeps them, in 65,536 steps; bool as it is."""
    if values.dtype == np.bool_:
        return values
    return np.asarray(np.rint(np.clip(values, 0.0, 1.0) * _STEPS) / _STEPS)


def encode_answers(answers: Answers) -> str:
    """Answers [n] as base64 text: right or wrong, bool, as bits (8 questions a byte, padded).

    Values in [0, 1], float, take two bytes each.
    """
    if answers.dtype == np.bool_:
        return base64.b64encode(np.packbits(answers).tobytes()).decode("ascii")
    steps = np.rint(np.clip(answers, 0.0, 1.0) * _STEPS).astype("<u2")
    return _REAL + base64.b64encode(steps.tobytes()).decode("ascii")


def decode_answers(text: str, questions: int) -> Answers:
    """The inverse of `encode_answers`: bool [questions], or float in [0, 1].

    Raises `ValueError` where the text holds fewer than `questions` answers.
    """
    if text.startswith(_REAL):
        steps = np.frombuffer(base64.b64decode(text[len(_REAL) :], validate=True), dtype="<u2")
        if steps.size < questions:
            raise ValueError(f"{keys.ANSWERS}: {steps.size} values for {questions} questions")
        return np.asarray(steps[:questions] / _STEPS)
    packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    if packed.size * 8 < questions:
        raise ValueError(f"{keys.ANSWERS}: {packed.size * 8} bits for {questions} questions")
    return np.unpackbits(packed, count=questions).astype(np.bool_)
