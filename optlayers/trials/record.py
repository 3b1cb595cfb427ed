"""Record: what a trial says about its layer set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from optuna.trial import TrialState

from optlayers.layerset import LayerSet
from optlayers.trials.answers import Answers, decode_answers


class Halves(NamedTuple):
    """Means over the even and the odd of some first questions: right answers, log-probabilities."""

    right: tuple[float, float]
    logs: tuple[float, float]


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
