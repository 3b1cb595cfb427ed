"""A queue over the replayed study, and claims on one layer set."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search import Goal, Phase, Proposal, Rungs
from optlayers.workers.queue import Claim, TrialQueue
from tests.helpers.replay import N_LAYERS, study_in

SPACE = LayerSpace(N_LAYERS, 1, 3)
SET = LayerSet.of(1, 4)


def queue_in(folder: Path, worker: str | None = None) -> TrialQueue:
    queue = TrialQueue(study_in(folder), SPACE, "cpu")
    queue.worker = worker or queue.worker
    return queue


def answer(claim: Claim, questions: int) -> Claim:
    """Give a claim right answers to the first questions."""
    scored = Rungs(32, 160, np.zeros(160, dtype=np.intp))
    claim.record = scored.at(claim.record, np.ones(questions, dtype=np.bool_), 0, {})
    return claim


def proposal(goal: Goal = Goal.race) -> Proposal:
    return Proposal(SET, Phase.explore, goal, generation=2)
