"""Proposal: a layer set to evaluate next, with its phase and goal."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from optlayers.layerset import ONE, Donors, LayerSet
from optlayers.trials import keys


class Phase(StrEnum):
    """The part of a study that a trial belongs to, in order."""

    probe = "probe"
    explore = "explore"
    validate = "validate"
    refine = "refine"
    done = "done"


class Goal(StrEnum):
    """How far a trial is evaluated; in all but `full` the pruner may end it.

    `step`: to the next rung of its set, where it pauses (the trial ends pruned, and the set may be
    proposed again). `fast`: the fast questions. `race`: all questions, rung by rung. `full`: all
    questions at once.
    """

    step = "step"
    fast = "fast"
    race = "race"
    full = "full"


@dataclass(frozen=True)
class Proposal:
    """A layer set to evaluate, with the user attributes that its trial is to carry."""

    layers: LayerSet
    phase: Phase
    goal: Goal
    generation: int | None = None
    round: int | None = None
    start: int = 0  # questions that a resumed set has answered already

    def user_attrs(self, donors: Donors = ONE) -> dict[str, Any]:
        """The user attributes of the trial that claims it (see `keys`)."""
        attrs: dict[str, Any] = {
            keys.LAYERS: self.layers.text(donors),
            keys.PHASE: self.phase.value,
            keys.GOAL: self.goal.value,
        }
        if self.generation is not None:
            attrs[keys.GENERATION] = self.generation
        if self.round is not None:
            attrs[keys.ROUND] = self.round
        if self.start:
            attrs[keys.START] = self.start
        return attrs
