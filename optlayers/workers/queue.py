"""Claims: how a worker takes a layer set, and tells what it found.

A claim is a RUNNING trial made in one commit with its whole cohort, unless another is on the same
layer set; where two are made all the same, the lower trial number stands. A trial whose worker is
gone is failed, and its layer set goes back to the queue as a WAITING trial in the same commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from optlayers.errors import RunError
from optlayers.layerset import ONE, Donors, LayerSet, LayerSpace, sortable
from optlayers.search import Outcome, Proposal, search_space
from optlayers.storage.heartbeat import Heartbeats, is_gone, process_name
from optlayers.storage.store import ACTIVE, Change, NewTrial, store_of
from optlayers.trials import keys
from optlayers.trials.answers import Answers
from optlayers.trials.record import Record
from optlayers.trials.records import read_record

MAX_RETRIES = 3
# From this retry on a set is evaluated alone: one that ends its workers takes no other with it.
ALONE_FROM = 2
RETRIES = "retries"
# For whoever sorts trials in a table: the number of layers, and the set so that text sorts well.
SIZE, SET = "size", "set"
_KEPT = (keys.LAYERS, keys.PHASE, keys.GOAL, keys.GENERATION, keys.ROUND, keys.START, SIZE, SET)


@dataclass
class Claim:
    """A running trial of this worker, and what is known of its layer set so far.

    inherited: number of answers that earlier trials of the set have paid for.
    """

    record: Record
    start: int = 0  # questions that the set had answered when it was proposed to go on
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


class Claims:
    """The claims of one worker in one study."""

    def __init__(
        self, study: optuna.Study, n_layers: int, device: str, donors: Donors = ONE
    ) -> None:
        self.study = study
        self.store = store_of(study)
        self.n_layers = n_layers
        self.donors = donors
        self.worker = process_name()
        self.device = device
        self.heartbeats = Heartbeats(self.store)
        # The study as it was read after the last claims: with them, and all that was told before.
        self.seen: list[FrozenTrial] = []
        self._space = search_space(LayerSpace(n_layers, donors=donors))

    # ------------------------------------------------------------------ taking

    def take(self, proposals: Sequence[Proposal]) -> list[Claim]:
        """Claim the proposals, less those that another worker claimed first."""
        made = self._create(proposals)
        mine = {claim.layers.text(self.donors) for claim in made}
        first: dict[tuple[str, str], int] = {}
        self.seen = self.study.get_trials(deepcopy=False) if mine else []
        for trial in self.seen:
            layers = trial.user_attrs.get(keys.LAYERS)
            if layers in mine and trial.state != TrialState.FAIL:
                key = (layers, _work(trial)[1])
                first[key] = min(first.get(key, trial.number), trial.number)
        kept = []
        for claim in made:
            layers = claim.layers.text(self.donors)
            # One that another worker began and ended in the meantime counts as well.
            works = {
                _work_of(state, claim.record.goal, claim.start)
                for state in (TrialState.RUNNING, TrialState.COMPLETE)
            }
            lowest = min(first.get((layers, work), claim.number) for work in works)
            if lowest < claim.number:
                self.fail(claim, f"{keys.REASON_DUPLICATE}: trial {lowest} has the same layers")
            else:
                kept.append(claim)
        return kept

    def _create(self, proposals: Sequence[Proposal]) -> list[Claim]:
        """The claims, less those whose work another worker has in hand."""
        wanted = [
            NewTrial(
                proposal.layers.to_params(self.n_layers, self.donors),
                self._space,
                {
                    **proposal.user_attrs(self.donors),
                    SIZE: len(proposal.layers),
                    SET: sortable(proposal.layers.labels(self.donors)),
                    keys.WORKER: self.worker,
                    keys.DEVICE: self.device,
                },
            )
            for proposal in proposals
        ]
        made = self.store.insert_running(wanted, unique=keys.LAYERS)
        claims = []
        for proposal, number in zip(proposals, made, strict=True):
            if number is not None:
                self.heartbeats.held.add(number)
                record = Record(
                    number,
                    TrialState.RUNNING,
                    proposal.layers,
                    phase=proposal.phase.value,
                    goal=proposal.goal.value,
                    generation=proposal.generation,
                    round=proposal.round,
                    worker=self.worker,
                )
                claims.append(Claim(record, proposal.start))
        return claims

    def _read(self, text: str) -> LayerSet:
        return LayerSet.parse(text, donors=self.donors)

    def pop_waiting(self, trials: Iterable[FrozenTrial], k: int) -> list[Claim]:
        """Take at most k trials that wait in the queue; one that failed often, alone."""
        trials = list(trials)
        under_way = {_work(t) for t in trials if t.state == TrialState.RUNNING}
        changes: list[Change] = []
        chosen: list[FrozenTrial] = []
        for trial in trials:
            if trial.state != TrialState.WAITING or keys.LAYERS not in trial.user_attrs:
                continue
            if _work(trial) in under_way:
                # Two workers may have queued one lost set, each for its own lost trial.
                attrs = {keys.REASON: f"{keys.REASON_DUPLICATE}: the set is under way already"}
                changes.append(Change(trial.number, trial.state, TrialState.FAIL, attrs))
                continue
            alone = int(trial.user_attrs.get(RETRIES, 0)) >= ALONE_FROM
            if alone and chosen:
                continue
            under_way.add(_work(trial))
            chosen.append(trial)
            mine = {keys.WORKER: self.worker, keys.DEVICE: self.device}
            changes.append(Change(trial.number, TrialState.WAITING, TrialState.RUNNING, mine))
            if alone or len(chosen) == k:
                break
        done = self.store.swap_states(changes)
        taken = []
        for trial in chosen:
            if trial.number in done:
                self.heartbeats.held.add(trial.number)
                record = read_record(trial)
                assert record is not None  # it has layers
                taken.append(Claim(replace(record, state=TrialState.RUNNING)))
        return taken

    # ------------------------------------------------------------------ telling

    def commit(self, outcomes: Sequence[tuple[Claim, Outcome]]) -> None:
        """Store scores and answers, and end what does not go on: COMPLETE, or else PRUNED.

        Nothing is written of a trial that is not RUNNING any more: a worker that slept too long
        finds it failed by another, and its layer set in the queue again.
        """
        changes = []
        for claim, outcome in outcomes:
            record = claim.record
            attrs: dict[str, Any] = {
                keys.ANSWERS: record.packed_answers,
                keys.QUESTIONS: record.questions,
                keys.EVALUATED: record.evaluated,
            }
            if record.halves:
                attrs[keys.HALVES] = record.halves_as_stored
            state, value = TrialState.RUNNING, None
            if outcome is not Outcome.CONTINUE:
                full = outcome is Outcome.COMPLETE
                state = TrialState.COMPLETE if full else TrialState.PRUNED
                value = record.score
                attrs |= {
                    keys.SCORE: record.score,
                    keys.CI_LOW: record.ci_low,
                    keys.CI_HIGH: record.ci_high,
                    keys.FIDELITY: "full" if full else "fast",
                }
            if outcome is Outcome.PRUNE:
                attrs[keys.REASON] = keys.REASON_BEATEN
            steps = {int(record.questions or 0): float(record.score or 0.0)}
            changes.append(Change(claim.number, TrialState.RUNNING, state, attrs, value, steps))
        self.store.swap_states(changes)
        ended = {claim.number for claim, outcome in outcomes if outcome is not Outcome.CONTINUE}
        self.heartbeats.held -= ended

    def fail(self, claim: Claim, reason: str) -> None:
        """Fail a trial with its reason."""
        attrs = {keys.REASON: reason[:500] or "no reason was given"}
        self.store.swap_states([Change(claim.number, TrialState.RUNNING, TrialState.FAIL, attrs)])
        self.heartbeats.held.discard(claim.number)

    # ------------------------------------------------------------------ giving back

    def give_back(self, reason: str = keys.REASON_INTERRUPTED, retries: int = 0) -> None:
        """Return all claims of this worker to the queue: fail them, and enqueue them again.

        They are found in the study, since a signal may have come in the middle of a claim.
        `retries` is 1 where the layer sets themselves may be what ended the worker.
        """
        mine = [
            trial
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state == TrialState.RUNNING
            and trial.user_attrs.get(keys.WORKER) == self.worker
        ]
        self._abandon(mine, reason, retries)

    def reap(self, trials: Iterable[FrozenTrial]) -> int:
        """Fail the trials of workers that are gone, and put their layer sets into the queue.

        A dead process of this host is known at once, one of another host by its heartbeats.
        Returns how many were found.
        """
        running = {t.number: t for t in trials if t.state == TrialState.RUNNING}
        # Two workers in threads of one process have one name.
        others = {i: t for i, t in running.items() if i not in self.heartbeats.held}
        workers = {i: str(t.user_attrs.get(keys.WORKER, "")) for i, t in others.items()}
        gone = {worker for worker in set(workers.values()) if is_gone(worker)}
        stale = {i for i, worker in workers.items() if worker in gone}
        if others:
            stale |= self.heartbeats.stale() & others.keys()
        reason = f"{keys.REASON_LOST}: it ended without a result"
        return self._abandon([others[i] for i in sorted(stale)], reason, 1)

    def _abandon(self, trials: Sequence[FrozenTrial], reason: str, retries: int) -> int:
        """Fail running trials and queue their layer sets again; how many were not done before.

        The answers that a trial has stored stay with it, and its layer set takes them over.
        """
        changes = []
        for trial in trials:
            attrs = trial.user_attrs
            tried = int(attrs.get(RETRIES, 0)) + retries
            why, again = reason, None
            if tried > MAX_RETRIES:
                # Not among the harmless reasons: the set itself may be what ends its workers.
                last = reason.removeprefix(f"{keys.REASON_LOST}: ")
                why = f"{keys.REASON_SPENT} in {MAX_RETRIES + 1} tries; the last: {last}"
            elif keys.LAYERS in attrs:
                kept = {key: attrs[key] for key in _KEPT if key in attrs}
                params = self._read(attrs[keys.LAYERS]).to_params(self.n_layers, self.donors)
                again = NewTrial(params, self._space, {**kept, RETRIES: tried})
            state = {keys.REASON: why[:500]}
            changes.append(
                Change(trial.number, TrialState.RUNNING, TrialState.FAIL, state, requeue=again)
            )
        self.heartbeats.held -= {trial.number for trial in trials}
        return len(self.store.swap_states(changes))


def _work(trial: FrozenTrial) -> tuple[str, str]:
    """The layer set of a trial, and what is done for it."""
    attrs = trial.user_attrs
    return str(attrs.get(keys.LAYERS)), _work_of(
        trial.state, attrs.get(keys.GOAL), attrs.get(keys.START, 0)
    )


def _work_of(state: TrialState, goal: str | None, start: int = 0) -> str:
    """What a trial does for its set: two of the same work are one too many.

    Under way, all are: whatever their goals, the next questions would be paid for twice. Finished,
    a trial spares only one of its own goal that was to start from as many questions.
    """
    return "under way" if state in ACTIVE else f"finished {goal} from {start}"


def stand(trials: Sequence[FrozenTrial]) -> tuple[int, ...]:
    """What changes whenever a trial is made, goes a rung further or ends."""
    active = [trial for trial in trials if not trial.state.is_finished()]
    return len(trials), len(active), sum(len(trial.intermediate_values) for trial in active)


def check_alive(trials: Sequence[FrozenTrial], least: int = 10) -> None:
    """Raise `RunError` where every trial, of at least so many, has failed: nothing is left."""
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    if len(failed) >= least and len(failed) == len(trials):
        reason = failed[-1].user_attrs.get(keys.REASON, "no reason was stored")
        raise RunError(f"all {len(failed)} trials have failed; the last one: {reason}")
