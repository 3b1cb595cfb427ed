"""TrialQueue: how a worker claims layer sets, stores their results, and returns unfinished ones.

A claim is a RUNNING trial. A cohort of them is made in one commit, without the sets that another
worker is evaluating; if one set is still claimed twice, the lower trial number stays. A trial
whose worker has ended is failed, and its set goes back to the queue as a WAITING trial in the same
commit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from optlayers.errors import InputError, RunError
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search import Goal, Outcome, Phase, Proposal, conclude, search_space
from optlayers.storage.heartbeat import Heartbeats, is_gone, process_name
from optlayers.storage.store import ACTIVE, Change, NewTrial, store_of
from optlayers.trials import keys
from optlayers.trials.answers import Answers
from optlayers.trials.record import Record, claim_attrs, read_record, result_attrs

RUNNING, WAITING, FAIL = TrialState.RUNNING, TrialState.WAITING, TrialState.FAIL

MAX_RETRIES = 3
# From this retry on a set is evaluated alone: if it ends its workers, no other set is lost too.
ALONE_FROM = 2


@dataclass
class Claim:
    """A running trial of this worker, and what is known of its layer set so far.

    inherited: answers that earlier trials of the set have paid for.
    """

    record: Record
    inherited: int = 0

    @property
    def number(self) -> int:
        """The trial's number."""
        return self.record.number

    @property
    def layers(self) -> LayerSet:
        """The trial's layer set."""
        return self.record.layers

    @property
    def answers(self) -> Answers:
        """The answers of the set so far."""
        found = self.record.answers
        return np.zeros(0, dtype=np.bool_) if found is None else found


class TrialQueue:
    """The trials of a study as one worker claims, changes and returns them."""

    def __init__(self, study: optuna.Study, space: LayerSpace, device: str) -> None:
        self.study, self.space, self.device = study, space, device
        self.store = store_of(study)
        self.worker = process_name()
        self.heartbeats = Heartbeats(self.store)
        # The trials as read after the last `claim`: with its claims, and all committed before.
        self.seen: list[FrozenTrial] = []
        self._distributions = search_space(space)

    def _new(self, record: Record, **attrs: Any) -> NewTrial:
        params = self.space.params(record.layers)
        return NewTrial(params, self._distributions, {**claim_attrs(record, self.space), **attrs})

    # ------------------------------------------------------------------ claiming

    def claim(self, proposals: Sequence[Proposal]) -> list[Claim]:
        """Claim the proposals, except those that another worker has claimed or done."""
        made = self._insert(proposals)
        self.seen = self.study.get_trials(deepcopy=False) if made else []
        of_set: dict[str, list[FrozenTrial]] = defaultdict(list)
        for trial in self.seen:
            if trial.state != FAIL:
                of_set[str(trial.user_attrs.get(keys.LAYERS))].append(trial)
        kept = []
        for claim in made:
            same = of_set[self.space.text(claim.layers)]
            lowest = min([t.number for t in same if _repeats(t, claim)], default=claim.number)
            if lowest < claim.number:
                self.fail(claim, f"{keys.REASON_DUPLICATE}: trial {lowest} has the same layers")
            else:
                kept.append(claim)
        return kept

    def _insert(self, proposals: Sequence[Proposal]) -> list[Claim]:
        """Make running trials of the proposals whose sets no other trial is about to evaluate."""
        records = [
            Record(
                -1,
                RUNNING,
                proposal.layers,
                phase=proposal.phase.value,
                goal=proposal.goal.value,
                generation=proposal.generation,
                round=proposal.round,
                start=proposal.start,
                worker=self.worker,
            )
            for proposal in proposals
        ]
        wanted = [self._new(record, **{keys.DEVICE: self.device}) for record in records]
        made = self.store.insert_running(wanted, unique=keys.LAYERS)
        claims = [
            Claim(replace(record, number=number))
            for record, number in zip(records, made, strict=True)
            if number is not None
        ]
        self.heartbeats.held |= {claim.number for claim in claims}
        return claims

    def claim_waiting(self, trials: Iterable[FrozenTrial], k: int) -> list[Claim]:
        """Claim at most k trials of the queue; a set that was lost often is claimed alone."""
        trials = list(trials)
        taken = {str(t.user_attrs.get(keys.LAYERS)) for t in trials if t.state == RUNNING}
        changes: list[Change] = []
        chosen: dict[int, Record] = {}
        for trial in trials:
            if trial.state != WAITING:
                continue
            try:
                record, given = self._wanted(trial)
            except InputError as error:
                attrs = {keys.REASON: f"{keys.REASON_REFUSED}: {error}"[:500]}
                changes.append(Change(trial.number, WAITING, FAIL, attrs))
                continue
            layers = self.space.text(record.layers)
            if layers in taken:
                # Two workers may have queued one lost set, each for its own lost trial.
                attrs = {keys.REASON: f"{keys.REASON_DUPLICATE}: another trial runs this set"}
                changes.append(Change(trial.number, WAITING, FAIL, attrs))
                continue
            alone = _retries(trial) >= ALONE_FROM
            if alone and chosen:
                continue
            taken.add(layers)
            chosen[trial.number] = record
            attrs = {keys.WORKER: self.worker, keys.DEVICE: self.device}
            changes.append(Change(trial.number, WAITING, RUNNING, attrs, given=given))
            if alone or len(chosen) == k:
                break
        done = self.store.swap_states(changes)
        claims = [
            Claim(replace(record, state=RUNNING))
            for number, record in chosen.items()
            if number in done
        ]
        self.heartbeats.held |= {claim.number for claim in claims}
        return claims

    def _wanted(self, trial: FrozenTrial) -> tuple[Record, NewTrial | None]:
        """What a trial of the queue asks for, and the parts that it lacks.

        A trial that another program queued, by Optuna's `enqueue_trial`, has parameters alone: it
        is raced as the sets of explore are. Raises `InputError` where they are no set of the
        budget.
        """
        if keys.LAYERS in trial.user_attrs and keys.GOAL in trial.user_attrs:
            record = read_record(trial)
            if record is not None:
                return record, None
        layers = self.space.set_of({**trial.system_attrs.get("fixed_params", {}), **trial.params})
        phase, goal = Phase.explore.value, Goal.race.value
        record = Record(trial.number, WAITING, layers, phase=phase, goal=goal)
        return record, self._new(record)

    # ------------------------------------------------------------------ storing

    def commit(self, outcomes: Sequence[tuple[Claim, Outcome]]) -> None:
        """Store scores and answers; trials that do not continue end, COMPLETE or PRUNED.

        Nothing is written to a trial that is not RUNNING any more: a worker that slept too long
        finds it failed by another, and its layer set in the queue again.
        """
        records = [conclude(claim.record, outcome) for claim, outcome in outcomes]
        changes = []
        for record in records:
            score = float(record.score or 0.0)
            value = score if record.state.is_finished() else None
            steps = {int(record.questions or 0): score}
            attrs = result_attrs(record)
            changes.append(Change(record.number, RUNNING, record.state, attrs, value, steps))
        self.store.swap_states(changes)
        self.heartbeats.held -= {r.number for r in records if r.state.is_finished()}

    def fail(self, claim: Claim, reason: str) -> None:
        """Fail a trial with its reason."""
        attrs = {keys.REASON: reason[:500] or "no reason was given"}
        self.store.swap_states([Change(claim.number, RUNNING, FAIL, attrs)])
        self.heartbeats.held.discard(claim.number)

    # ------------------------------------------------------------------ returning

    def release(self, reason: str = keys.REASON_INTERRUPTED, retries: int = 0) -> None:
        """Return all claims of this worker to the queue: fail them and queue their sets again.

        They are looked up in the study, since a signal may have come in the middle of a claim.
        retries: 1 if the layer sets themselves may have ended the worker.
        """
        running = [t for t in self.study.get_trials(deepcopy=False) if t.state == RUNNING]
        mine = [t for t in running if t.user_attrs.get(keys.WORKER) == self.worker]
        self._requeue(mine, reason, retries)

    def reap(self, trials: Iterable[FrozenTrial]) -> int:
        """Return the claims of workers that have ended to the queue; how many there were.

        A dead process of this host is known at once, one of another host by its heartbeats.
        """
        # Two workers in threads of one process have one name.
        others = {
            t.number: t
            for t in trials
            if t.state == RUNNING and t.number not in self.heartbeats.held
        }
        if not others:
            return 0
        workers = {n: str(t.user_attrs.get(keys.WORKER, "")) for n, t in others.items()}
        gone = {worker for worker in set(workers.values()) if is_gone(worker)}
        lost = {n for n, worker in workers.items() if worker in gone}
        lost |= self.heartbeats.stale() & others.keys()
        reason = f"{keys.REASON_LOST}: it ended without a result"
        return self._requeue([others[n] for n in sorted(lost)], reason, 1)

    def _requeue(self, trials: Sequence[FrozenTrial], reason: str, retries: int) -> int:
        """Fail running trials and queue their layer sets again; how many still ran.

        The answers that a trial has stored stay with it, and the next trial of its set uses them.
        """
        changes = []
        for trial in trials:
            tried = _retries(trial) + retries
            record = read_record(trial)
            why, again = reason, None
            if tried > MAX_RETRIES:
                # Not among the harmless reasons: the set itself may be what ends its workers.
                last = reason.removeprefix(f"{keys.REASON_LOST}: ")
                why = f"{keys.REASON_SPENT} in {MAX_RETRIES + 1} tries; the last: {last}"
            elif keys.LAYERS in trial.user_attrs and record is not None:
                again = self._new(replace(record, worker=""), **{keys.RETRIES: tried})
            failed = {keys.REASON: why[:500]}
            changes.append(Change(trial.number, RUNNING, FAIL, failed, requeue=again))
        self.heartbeats.held -= {trial.number for trial in trials}
        return len(self.store.swap_states(changes))


def _retries(trial: FrozenTrial) -> int:
    """How often the layer set of a trial was lost with its worker."""
    found = trial.user_attrs.get(keys.RETRIES)
    return found if isinstance(found, int) else 0


def _repeats(trial: FrozenTrial, claim: Claim) -> bool:
    """Whether a trial of the same set makes a claim unnecessary.

    Any that is active does: whatever the goals, the next questions would be paid for twice. Of the
    finished ones, one with the same goal that started from as many questions.
    """
    attrs = trial.user_attrs
    goal, start = attrs.get(keys.GOAL), attrs.get(keys.START, 0)
    return trial.state in ACTIVE or (goal, start) == (claim.record.goal, claim.record.start)


def revision(trials: Sequence[FrozenTrial]) -> tuple[int, ...]:
    """Numbers that change whenever a trial is made, reaches a rung or ends."""
    active = [trial for trial in trials if not trial.state.is_finished()]
    return len(trials), len(active), sum(len(trial.intermediate_values) for trial in active)


def check_not_all_failed(trials: Sequence[FrozenTrial], least: int = 10) -> None:
    """Raise `RunError` where there are at least so many trials and all have failed."""
    refused = keys.REASON_REFUSED
    trials = [t for t in trials if not str(t.user_attrs.get(keys.REASON)).startswith(refused)]
    failed = [trial for trial in trials if trial.state == FAIL]
    if len(failed) >= least and len(failed) == len(trials):
        reason = failed[-1].user_attrs.get(keys.REASON, "no reason was stored")
        raise RunError(f"all {len(failed)} trials have failed; the last one: {reason}")
