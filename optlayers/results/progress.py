"""How far layer sets got, what failed, and what racing and shared prefixes saved."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import TrialState

from optlayers.layerset import Labels, LayerSpace
from optlayers.search import Goal, Phase
from optlayers.trials import keys
from optlayers.trials.record import Record
from optlayers.trials.worker_state import WorkerState


@dataclass(frozen=True)
class Funnel:
    """Numbers of distinct layer sets by how far they got.

    evaluated: answered any questions. See `steps` for the others.
    """

    proposed: int
    evaluated: int
    fast: int
    raced_out: int
    full: int
    refined: int

    def steps(self) -> list[tuple[str, int, str]]:
        """Name, count and meaning of each step."""
        return [
            ("proposed", self.proposed, "layer sets taken up by a worker"),
            ("fast", self.fast, "answered all fast questions at least"),
            ("raced out", self.raced_out, "stopped early: beaten, or paused for better ones"),
            ("full", self.full, "answered all questions"),
            ("refined", self.refined, "of the full ones, neighbours found by local refinement"),
        ]


def funnel(records: Sequence[Record], n_fast: int) -> Funnel:
    """The funnel of a study; n_fast: the number of fast questions."""
    evaluated = [r for r in records if r.is_evaluated]
    full = {r.layers.indices for r in evaluated if r.is_full}

    def count(found: Sequence[Record]) -> int:
        return len({r.layers.indices for r in found})

    raced = [r for r in evaluated if r.goal in (Goal.race, Goal.step)]
    return Funnel(
        proposed=count([r for r in records if r.state != TrialState.WAITING]),
        evaluated=count(evaluated),
        fast=count([r for r in evaluated if r.is_full or (r.questions or 0) >= n_fast]),
        raced_out=count([r for r in raced if r.layers.indices not in full]),
        full=len(full),
        refined=count([r for r in evaluated if r.is_full and r.phase == Phase.refine]),
    )


@dataclass(frozen=True)
class Failure:
    """Trials that ended without a result for the same reason.

    returned: the layer sets went back to the queue, since the reason says nothing about them (a
    worker left or was lost, or two workers had the same set). layers: one of the sets.
    """

    reason: str
    trials: int
    returned: bool
    layers: Labels


def failures(records: Sequence[Record], space: LayerSpace) -> list[Failure]:
    """Why trials ended without a result: failures of the layer sets first, frequent ones first."""
    by_reason: dict[str, list[Record]] = {}
    for record in records:
        if record.state == TrialState.FAIL:
            # A worker that dies cannot store a reason.
            reason = record.reason or (keys.REASON_LOST if record.worker else "no reason stored")
            # Without the layers, so that equal reasons of different sets are counted together.
            reason = re.sub(r"^layers \[?[\w@, ]+\]?: ", "", reason)
            by_reason.setdefault(reason, []).append(record)
    found = [
        Failure(
            reason=reason,
            trials=len(mine),
            returned=reason.startswith(keys.HARMLESS_REASONS),
            layers=space.labels(mine[0].layers),
        )
        for reason, mine in by_reason.items()
    ]
    return sorted(found, key=lambda f: (f.returned, -f.trials, f.reason))


@dataclass(frozen=True)
class Savings:
    """Work saved, compared with evaluating every layer set on all questions, one by one.

    racing: share of the questions that were not asked. prefixes: share of the layer passes of the
    questions asked that shared prefixes saved. Both 0 to 1, or None where not known yet.
    """

    racing: float | None
    prefixes: float | None

    @property
    def together(self) -> float | None:
        """Share of all layer passes that was saved."""
        if self.racing is None or self.prefixes is None:
            return self.racing
        return 1.0 - (1.0 - self.racing) * (1.0 - self.prefixes)


def savings(records: Sequence[Record], workers: Sequence[WorkerState], n_full: int) -> Savings:
    """What racing and shared prefixes have saved so far."""
    evaluated = [record for record in records if record.is_evaluated]
    every = len({record.layers.indices for record in evaluated}) * n_full
    asked = sum(record.evaluated for record in evaluated)
    passes = sum(worker.passes for worker in workers)
    saved = sum(worker.saved_passes for worker in workers)
    return Savings(
        racing=max(0.0, 1.0 - asked / every) if every else None,
        prefixes=saved / (passes + saved) if passes else None,
    )
