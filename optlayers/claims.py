"""Claims: how a worker takes a layer set, keeps it alive, and tells what it found.

A claim is a RUNNING trial made in one commit, with all its parameters, unless another is on the
same layer set; where two are made all the same, the lower trial number stands. A trial whose
worker is gone is failed, and its layer set goes back to the queue as a WAITING trial.
"""

from __future__ import annotations

import datetime
import functools
import os
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.storages import BaseStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from optlayers.layerset import LayerSet
from optlayers.search import Goal, Proposal, encode_answers, keys, search_space
from optlayers.search.statistics import ScoreInterval
from optlayers.storage import GRACE_SECONDS
from optlayers.transactions import insert_running, swap_state

MAX_RETRIES = 3
RETRIES = "retries"


def process_name() -> str:
    """`host:pid:start`, which tells this process from any other, also after its death."""
    return f"{_host()}:{os.getpid()}:{_start_of(os.getpid())}"


@functools.cache
def _host() -> str:
    """Name of this machine; on Linux with its boot and its space of process numbers.

    Containers and cloned machines may share a name, and a process number means nothing across.
    """
    name = socket.gethostname()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
        return f"{name}/{boot}-{os.readlink('/proc/self/ns/pid').strip('pid:[]')}"
    except OSError:
        return name


def _start_of(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 where there is none such."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return int(stat.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def is_gone(worker: str) -> bool:
    """Whether that process of this host has ended; False for other hosts and where unknown."""
    try:
        host, pid, start = worker.rsplit(":", 2)
        number, started = int(pid), int(start)
    except ValueError:
        return False
    if host != _host():
        return False
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    now = _start_of(number)
    return bool(started and now and now != started)


@dataclass
class Claim:
    """One layer set that this worker has taken, and the answers it has so far."""

    study: optuna.Study
    trial_id: int
    number: int
    layers: LayerSet
    goal: Goal
    answers: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    inherited: int = 0

    @functools.cached_property
    def trial(self) -> Trial:
        """Optuna's trial, which the pruner asks for."""
        return Trial(self.study, self.trial_id)

    @property
    def evaluated(self) -> int:
        """Number of questions that this trial itself paid for."""
        return len(self.answers) - self.inherited


class Claims:
    """The claims of one worker in one study."""

    def __init__(self, study: optuna.Study, n_layers: int, device: str) -> None:
        self.study = study
        self.storage: BaseStorage = study._storage
        self.n_layers = n_layers
        self.worker = process_name()
        self.device = device
        self._space = search_space(n_layers)
        self._beating: set[int] = set()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------ taking

    def take(self, proposals: Sequence[Proposal]) -> list[Claim]:
        """Claim the proposals, less those that another worker claimed first."""
        tried = [self._create(proposal) for proposal in proposals]
        made = [claim for claim in tried if claim is not None]
        mine = {str(claim.layers) for claim in made}
        first: dict[tuple[str, str], int] = {}
        for trial in self.study.get_trials(deepcopy=False):
            layers = trial.user_attrs.get(keys.LAYERS)
            if layers in mine and trial.state != TrialState.FAIL:
                key = (layers, _work_of(trial.state, trial.user_attrs.get(keys.GOAL)))
                first[key] = min(first.get(key, trial.number), trial.number)
        kept = []
        for claim in made:
            goal, layers = claim.goal.value, str(claim.layers)
            # One that another worker began and ended in the meantime counts as well.
            works = {_work_of(state, goal) for state in (TrialState.RUNNING, TrialState.COMPLETE)}
            lowest = min(first.get((layers, work), claim.number) for work in works)
            if lowest < claim.number:
                self.fail(claim, f"{keys.REASON_DUPLICATE}: trial {lowest} has the same layers")
            else:
                kept.append(claim)
        return kept

    def _create(self, proposal: Proposal) -> Claim | None:
        """One claim, or None where another worker has the same work in hand."""
        work = _work_of(TrialState.RUNNING, proposal.goal.value)

        def clash(other: Mapping[str, Any]) -> bool:
            same = other.get(keys.LAYERS) == str(proposal.layers)
            return same and _work_of(TrialState.RUNNING, other.get(keys.GOAL)) == work

        attrs = {**proposal.user_attrs(), keys.WORKER: self.worker, keys.DEVICE: self.device}
        params = proposal.layers.to_params(self.n_layers)
        made = insert_running(self.storage, self.study._study_id, params, self._space, attrs, clash)
        if made is None:
            return None
        trial_id, number = made
        self._beating.add(trial_id)
        return Claim(self.study, trial_id, number, proposal.layers, proposal.goal)

    def pop_waiting(self, trials: Iterable[FrozenTrial], k: int) -> list[Claim]:
        """Take at most k trials that wait in the queue."""
        taken: list[Claim] = []
        trials = list(trials)
        under_way = {
            (t.user_attrs.get(keys.LAYERS), _work_of(t.state, t.user_attrs.get(keys.GOAL)))
            for t in trials
            if t.state == TrialState.RUNNING
        }
        for trial in trials:
            if len(taken) == k:
                break
            if trial.state != TrialState.WAITING or keys.LAYERS not in trial.user_attrs:
                continue
            work = (
                trial.user_attrs[keys.LAYERS],
                _work_of(trial.state, trial.user_attrs[keys.GOAL]),
            )
            if work in under_way:
                # Two workers may have queued one lost set, each for its own lost trial.
                attrs = {keys.REASON: f"{keys.REASON_DUPLICATE}: the set is under way already"}
                swap_state(self.storage, trial._trial_id, trial.state, TrialState.FAIL, attrs)
                continue
            under_way.add(work)
            mine = {keys.WORKER: self.worker, keys.DEVICE: self.device}
            if not swap_state(
                self.storage, trial._trial_id, TrialState.WAITING, TrialState.RUNNING, mine
            ):
                continue
            self._beat(trial._trial_id)
            layers = LayerSet.parse(trial.user_attrs[keys.LAYERS])
            goal = Goal(trial.user_attrs[keys.GOAL])
            taken.append(Claim(self.study, trial._trial_id, trial.number, layers, goal))
        return taken

    # ------------------------------------------------------------------ telling

    def report(self, claim: Claim, interval: ScoreInterval, racing: bool) -> None:
        """Store an intermediate value; with `racing`, the answers too, which the pruner reads."""
        attrs: dict[str, Any] = {}
        if racing:
            attrs = {
                keys.ANSWERS: encode_answers(claim.answers),
                keys.QUESTIONS: len(claim.answers),
                keys.EVALUATED: claim.evaluated,
            }
        self._move(claim, TrialState.RUNNING, attrs, steps={len(claim.answers): interval.score})

    def finish(self, claim: Claim, interval: ScoreInterval, full: bool) -> None:
        """Tell the score: COMPLETE on all questions, else PRUNED."""
        attrs: dict[str, Any] = {
            keys.ANSWERS: encode_answers(claim.answers),
            keys.QUESTIONS: len(claim.answers),
            keys.SCORE: interval.score,
            keys.CI_LOW: interval.ci_low,
            keys.CI_HIGH: interval.ci_high,
            keys.FIDELITY: "full" if full else "fast",
            keys.EVALUATED: claim.evaluated,
        }
        state = TrialState.COMPLETE if full else TrialState.PRUNED
        self._move(claim, state, attrs, value=interval.score)

    def fail(self, claim: Claim, reason: str) -> None:
        """Fail a trial with its reason."""
        self._move(claim, TrialState.FAIL, {keys.REASON: reason[:500] or "no reason was given"})

    def _move(
        self,
        claim: Claim,
        state: TrialState,
        attrs: dict[str, Any],
        value: float | None = None,
        steps: dict[int, float] | None = None,
    ) -> None:
        """Write what a claim has come to, all or nothing.

        Nothing where the trial is not RUNNING any more: a worker that slept too long finds it
        failed by another, and its layer set in the queue again.
        """
        trial_id = claim.trial_id
        swap_state(self.storage, trial_id, TrialState.RUNNING, state, attrs, value, steps)
        if state.is_finished():
            self._beating.discard(trial_id)

    def give_back(self) -> None:
        """Return all claims of this worker to the queue: fail them, and enqueue them again.

        They are found in the study, since a signal may have come in the middle of a claim.
        """
        for trial in self.study.get_trials(deepcopy=False):
            mine = trial.user_attrs.get(keys.WORKER) == self.worker
            if trial.state == TrialState.RUNNING and mine:
                self._abandon(trial, f"{keys.REASON_INTERRUPTED}: the worker was stopped", 0)

    def _abandon(self, trial: FrozenTrial, reason: str, retries: int) -> bool:
        """Fail a running trial and queue its layer set again; False where others were quicker."""
        self._beating.discard(trial._trial_id)
        if retries and int(trial.user_attrs.get(RETRIES, 0)) >= MAX_RETRIES:
            # Not among the harmless reasons: the layer set itself may be what ends its workers.
            reason = f"its worker ended without a result, {MAX_RETRIES + 1} times"
        attrs = {keys.REASON: reason}
        if not swap_state(
            self.storage, trial._trial_id, TrialState.RUNNING, TrialState.FAIL, attrs
        ):
            return False
        self._requeue(trial, retries)
        return True

    # ------------------------------------------------------------------ staying alive

    def start(self) -> None:
        """Begin to send heartbeats for all claims, in the background."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._heartbeats, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the heartbeats."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _beat(self, trial_id: int) -> None:
        self._beating.add(trial_id)
        if isinstance(self.storage, BaseHeartbeat):
            self.storage.record_heartbeat(trial_id)

    def _heartbeats(self) -> None:
        beating = self.storage
        if not isinstance(beating, BaseHeartbeat):
            return
        interval = beating.get_heartbeat_interval() or 10
        while not self._stop.wait(interval):
            for trial_id in list(self._beating):
                try:
                    beating.record_heartbeat(trial_id)
                except Exception:
                    # A missed beat is made good by the next; the main loop meets the same
                    # database and says what is wrong with it.
                    break

    def reap(self, trials: Iterable[FrozenTrial]) -> int:
        """Fail the trials of workers that are gone, and put their layer sets into the queue.

        A dead process of this host is known at once, one of another host by its heartbeats.
        Returns how many were found.
        """
        now = datetime.datetime.now()
        stale: dict[int, FrozenTrial] = {}
        running = {t._trial_id: t for t in trials if t.state == TrialState.RUNNING}
        for trial_id, trial in running.items():
            worker = str(trial.user_attrs.get(keys.WORKER, ""))
            begun = trial.datetime_start or now
            # Without a name it was claimed by a worker that died before it could say who it is.
            if is_gone(worker) or (not worker and (now - begun).total_seconds() > GRACE_SECONDS):
                stale[trial_id] = trial
        if isinstance(self.storage, BaseHeartbeat):
            for trial_id in self.storage._get_stale_trial_ids(self.study._study_id):
                if trial_id in running:
                    stale[trial_id] = running[trial_id]
        reason = f"{keys.REASON_LOST}: it ended without a result"
        return sum(
            self._abandon(trial, reason, 1)
            for trial_id, trial in sorted(stale.items())
            if trial_id not in self._beating
        )

    def _requeue(self, trial: FrozenTrial, more_retries: int) -> None:
        """A WAITING trial of the same layer set and goal, a limited number of times."""
        attrs = trial.user_attrs
        retries = int(attrs.get(RETRIES, 0)) + more_retries
        if keys.LAYERS not in attrs or retries > MAX_RETRIES:
            return
        kept = (keys.LAYERS, keys.PHASE, keys.GOAL, keys.GENERATION, keys.ROUND)
        again = {key: attrs[key] for key in kept if key in attrs}
        layers = LayerSet.parse(attrs[keys.LAYERS])
        template = create_trial(
            state=TrialState.WAITING,
            params=layers.to_params(self.n_layers),
            distributions=dict(self._space),
            user_attrs={**again, RETRIES: retries},
        )
        self.storage.create_new_trial(self.study._study_id, template_trial=template)


def _work_of(state: TrialState, goal: str | None) -> str:
    """What a trial does for its set: two of the same work are one too many.

    Under way, `fast` and `race` begin alike; finished, a trial spares only one of its own goal.
    """
    if state.is_finished():
        return f"finished {goal}"
    return "full" if goal == Goal.full.value else "part"
