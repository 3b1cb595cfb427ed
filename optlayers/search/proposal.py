"""Proposal: one layer set to evaluate next, and what for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from optlayers.layerset import ONE, Donors, LayerSet
from optlayers.trials import keys


class Phase(StrEnum):
    """The part of a study that a trial belongs to, in the order in which they come."""

    probe = "probe"
    explore = "explore"
    validate = "validate"
    refine = "refine"
    done = "done"


class Goal(StrEnum):
    """How far a trial is evaluated; all but `full` end as pruned where the pruner says so.

    `step`: one rung further than its set has come, then it pauses (ends as pruned), and its set may
    be proposed again. `fast`: the fast questions. `race`: all questions, rung by rung. `full`: all
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
    start: int = 0  # questions that the set had answered, of those that go on

    def user_attrs(self, donors: Donors = ONE) -> dict[str, Any]:
        """The attributes to set on the trial when it is claimed (see `keys`)."""
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
