"""How far a study has come: the funnel of layer sets, and the share of work that is saved.

Used by the report and by the live view.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from optlayers.config.study import StudyDefinition
from optlayers.layerset import ONE, Donors, Labels
from optlayers.results.leaderboard import Status, status
from optlayers.search import Goal, Phase
from optlayers.trials import keys
from optlayers.trials.record import Record
from optlayers.trials.records import read_records
from optlayers.trials.worker_state import WorkerState, read_workers


@dataclass(frozen=True)
class Funnel:
    """Distinct layer sets by how far they came.

    proposed: taken up at all. evaluated: answered any questions. fast: all of the fast ones at
    least. raced_out: ended early by racing against better ones. full: answered all questions.
    refined: of these, neighbours that local refinement brought in.
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
            (
                "raced out",
                self.raced_out,
                "ended early: beaten, or put off for better ones",
            ),
            ("full", self.full, "answered all questions"),
            ("refined", self.refined, "of the full ones, neighbours found by local refinement"),
        ]


def funnel(records: Sequence[Record], n_fast: int) -> Funnel:
    """The funnel of a study's trials; n_fast: the number of fast questions."""
    proposed, evaluated, fast, full, refined = set(), set(), set(), set(), set()
    raced: set[tuple[int, ...]] = set()
    for record in records:
        layers = record.layers.indices
        if record.state != TrialState.WAITING:
            proposed.add(layers)
        if not record.is_evaluated:
            continue
        evaluated.add(layers)
        if record.is_full or (record.questions or 0) >= n_fast:
            fast.add(layers)
        if record.is_full:
            full.add(layers)
            if record.phase == Phase.refine:
                refined.add(layers)
        elif record.goal in (Goal.race, Goal.step):
            raced.add(layers)
    counts = (len(found) for found in (proposed, evaluated, fast, raced - full, full, refined))
    return Funnel(*counts)


@dataclass(frozen=True)
class Failure:
    """Trials that ended without a result for one reason.

    returned: the layer sets went back to the queue (a worker left or was lost, or two had claimed
    one set), which is no fault of theirs. layers: one of the sets.
    """

    reason: str
    trials: int
    returned: bool
    layers: Labels


def failures(records: Sequence[Record], donors: Donors = ONE) -> list[Failure]:
    """Why trials failed: faults first, and of these the frequent ones."""
    by_reason: dict[str, list[Record]] = {}
    for record in records:
        if record.state == TrialState.FAIL:
            # A worker that dies cannot leave a reason.
            reason = record.reason or (keys.REASON_LOST if record.worker else "no reason stored")
            # What differs from set to set would give every set a reason of its own.
            reason = re.sub(r"^layers \[?[\w@, ]+\]?: ", "", reason)
            by_reason.setdefault(reason, []).append(record)
    found = [
        Failure(
            reason=reason,
            trials=len(mine),
            returned=reason.startswith(keys.HARMLESS_REASONS),
            layers=mine[0].layers.labels(donors),
        )
        for reason, mine in by_reason.items()
    ]
    return sorted(found, key=lambda f: (f.returned, -f.trials, f.reason))


@dataclass(frozen=True)
class Savings:
    """Work against evaluating every set on all questions, one by one.

    racing: share of the questions that were not asked. prefixes: share of the layer passes of
    those asked that shared prefixes spared. Both 0 to 1, or None where nothing is known yet.
    """

    racing: float | None
    prefixes: float | None

    @property
    def together(self) -> float | None:
        """Share of all layer passes that was not run."""
        if self.racing is None or self.prefixes is None:
            return self.racing
        return 1.0 - (1.0 - self.racing) * (1.0 - self.prefixes)


def savings(records: Sequence[Record], workers: Sequence[WorkerState], n_full: int) -> Savings:
    """What racing and shared prefixes have saved so far."""
    sets = {record.layers.indices for record in records if record.is_evaluated}
    paid = sum(record.evaluated for record in records if record.is_evaluated)
    passes = sum(worker.passes for worker in workers)
    spared = sum(worker.saved_passes for worker in workers)
    return Savings(
        racing=max(0.0, 1.0 - paid / (len(sets) * n_full)) if sets and n_full else None,
        prefixes=spared / (passes + spared) if passes else None,
    )


@dataclass(frozen=True)
class Snapshot:
    """A study at one moment, as the database tells it."""

    status: Status
    funnel: Funnel
    savings: Savings
    failures: list[Failure]
    workers: list[WorkerState]

    @property
    def failed(self) -> int:
        """Trials that failed by their own fault."""
        return sum(f.trials for f in self.failures if not f.returned)

    @property
    def passes(self) -> int:
        """Layer passes that all workers have run, one layer on one question each."""
        return sum(worker.passes for worker in self.workers)


def snapshot(definition: StudyDefinition, study: optuna.Study) -> Snapshot:
    """The study as it stands now."""
    attrs = study.user_attrs
    workers = read_workers(attrs)
    state = status(definition, study)
    records = read_records(study.get_trials(deepcopy=False))
    return Snapshot(
        status=state,
        funnel=funnel(records, int(attrs.get(keys.N_FAST, 0))),
        savings=savings(records, workers, int(attrs.get(keys.N_FULL, 0))),
        failures=failures(records),
        workers=workers,
    )
