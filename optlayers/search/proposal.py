"""Proposal: a layer set to evaluate next, with its phase and goal."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from optlayers.layerset import LayerSet


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
    """A layer set to evaluate, and what for."""

    layers: LayerSet
    phase: Phase
    goal: Goal
    generation: int | None = None
    round: int | None = None
    start: int = 0  # questions that a resumed set has answered already
