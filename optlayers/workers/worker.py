"""The worker: the loop that joins search and evaluation.

It asks what the study needs next, claims a cohort, evaluates it, and stores the results, until
the study is done. Everything it knows of the study it reads from the database, so any number
of workers may run, and any may die at any time.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from optlayers.config.study import StudyDefinition
from optlayers.errors import EvaluationError, StorageError, TimeUp
from optlayers.evaluation.base import Evaluator
from optlayers.inference.prefix_tree import layer_passes
from optlayers.search import Phase, Plan, RacingPruner, plan, sampler_for
from optlayers.search.factory import worker_seed
from optlayers.search.logprobs import note_rung
from optlayers.search.planner import COHORT, recent_workers
from optlayers.search.rungs import Outcome, Rungs, advance, by_rung, most_answers
from optlayers.storage.heartbeat import is_gone
from optlayers.storage.redact import mask_password
from optlayers.storage.signals import interruptible
from optlayers.storage.worker_status import StatusReporter
from optlayers.trials import keys
from optlayers.trials.cost import is_known, key_of
from optlayers.trials.record import Record, RecordReader
from optlayers.workers import heldout as holdout
from optlayers.workers.once import do_once
from optlayers.workers.queue import Claim, TrialQueue, check_not_all_failed, revision
from optlayers.workers.watchdog import Watchdog

# Seconds between polls while idle; it grows to LONGEST_POLL.
POLL_SECONDS, LONGEST_POLL = 0.25, 1.0
REAP_SECONDS = 5.0
# How long a worker that was told to stop tries to reach the database.
LEAVE_SECONDS = 3.0


def _end(reason: str) -> None:
    """End a process whose main thread hangs."""
    os._exit(1)


@dataclass
class Worker:
    """One worker of one study.

    `index` distinguishes the workers of one machine and seeds their proposals; `cohort` is the
    number of layer sets evaluated together (up to `LISTED` times as many where they are neighbours
    or single layers); `max_seconds` ends it early (before a cohort that
    would take longer). `hang_seconds` is the longest that an evaluation may take (None: by the
    pace so far); then its claims go back to the queue, and `abort` is called with the reason.
    """

    definition: StudyDefinition
    study: optuna.Study
    evaluator: Evaluator
    device: str = "cpu"
    index: int = 0
    cohort: int = COHORT
    max_seconds: float | None = None
    hang_seconds: float | None = None
    say: Callable[[str], None] = lambda text: None
    abort: Callable[[str], None] = _end
    _reader: RecordReader = field(default_factory=RecordReader)
    _phase: Phase = Phase.probe
    # Trials for which the plan had no work, and when.
    _idle: tuple[tuple[int, ...], float] = ((), 0.0)
    _slowest: float = 0.0  # seconds of a cohort

    def __post_init__(self) -> None:
        order = self.evaluator.order
        self._publish()
        space = self.definition.space(self.evaluator.n_layers)
        self.queue = TrialQueue(self.study, space, self.device)
        self.queue.heartbeats.on_hang = self._hung
        self.watchdog = Watchdog(self.queue.heartbeats, self.hang_seconds)
        self.status = StatusReporter(
            self.study, self.queue.worker, self.device, self.evaluator.hardware
        )
        self.rungs = Rungs(order.n_fast, order.n_full, order.subject, order.weights)
        self._fast_weights = order.fast_weights
        self.sampler = sampler_for(
            self.definition,
            self.evaluator.n_layers,
            worker_seed(self.definition, self.index),
        )
        self._reaped = -math.inf

    def _publish(self) -> None:
        """Store the questions of the study, or check that they have not changed."""
        order, donors = self.evaluator.order, self.definition.donor_names
        facts: dict[str, Any] = {
            keys.N_LAYERS: self.evaluator.n_layers,
            **({keys.DONORS: list(donors)} if len(donors) > 1 else {}),
            keys.SAMPLER: self.definition.explore.sampler,
            keys.N_FAST: order.n_fast,
            keys.N_FULL: order.n_full,
            keys.QUESTION_STRATA: order.subject.tolist(),
            keys.SUBJECT_WEIGHTS: order.weights.tolist(),
            keys.SUBJECTS: [subject.name for subject in order.subjects],
            keys.DOCUMENTS: [subject.digest for subject in order.subjects],
        }
        known = self.study.user_attrs
        for key, value in facts.items():
            if key not in known:
                self.study.set_user_attr(key, value)
            elif key == keys.SAMPLER and known[key] != value:
                raise StorageError(
                    f"study {self.definition.name!r} was started with sampler {known[key]!r}, not "
                    f"{value!r}; give --sampler {known[key]}, or another database or study name"
                )
            elif known[key] != value:
                raise StorageError(
                    f"study {self.definition.name!r}: {key} has changed since the study began "
                    "(the models or the tasks have changed); restore them, or choose another "
                    "study name or database"
                )

    # ------------------------------------------------------------------ the loop

    def run(self) -> bool:
        """Work until the study is done (True) or the time is up (False).

        Raises `RunError` where the study cannot go on; on `Stopped`, claims go back first.
        """
        with interruptible():
            return self._run()

    def _run(self) -> bool:
        started, pause = time.monotonic(), POLL_SECONDS
        end = None if self.max_seconds is None else started + self.max_seconds
        self.queue.heartbeats.start()
        try:
            self._measure_cost(end)
            while self._has_time(started):
                held = self._claim()
                if held:
                    began, pause = time.monotonic(), POLL_SECONDS
                    self.status.report(
                        f"{self._phase.value}: {len(held)} layer set{'s' * (len(held) > 1)}"
                    )
                    self._evaluate(held)
                    self._slowest = max(self._slowest, time.monotonic() - began)
                elif self._phase == Phase.done:
                    check_not_all_failed(self.study.get_trials(deepcopy=False), least=1)
                    self.say("checking on held-out questions")
                    holdout.check(
                        self.study,
                        self.definition,
                        self._records(),
                        self.evaluator,
                        self.watchdog,
                        self.queue.worker,
                        end=end,
                        say=self.say,
                    )
                    self.status.report("done", now=True)
                    return True
                else:
                    self.status.report(f"{self._phase.value}: waits for other workers")
                    time.sleep(pause)
                    pause = min(1.5 * pause, LONGEST_POLL)
            self.status.report("left: time is up", now=True)
            return False
        except TimeUp:
            self._leave(keys.REASON_INTERRUPTED, 0)
            return False
        except Exception as error:
            # The layer sets themselves may be the cause: they come back a limited number of times.
            why = mask_password(f"{type(error).__name__}: {error}")
            self._leave(f"{keys.REASON_LOST}: {why}", 1)
            raise
        except BaseException:
            self._leave(f"{keys.REASON_INTERRUPTED}: the worker was stopped", 0)
            raise
        finally:
            self.queue.heartbeats.stop()

    def _measure_cost(self, end: float | None) -> None:
        """Measure and store the costs of the layers once, if the study needs them."""
        kind = self.definition.cost
        if is_known(self.definition, self.study.user_attrs):
            return

        def measure() -> None:
            space = self.definition.space(self.evaluator.n_layers)
            self.study.set_user_attr(key_of(kind), self.evaluator.costs(kind, space))

        do_once(self.study, self.queue.worker, {f"{kind} of layers": measure}, end=end)

    def _has_time(self, started: float) -> bool:
        """Whether there is time for one more cohort, as long as the slowest so far."""
        if self.max_seconds is None:
            return True
        return time.monotonic() - started + self._slowest < self.max_seconds

    def _leave(self, reason: str, retries: int) -> None:
        """Return the claims if the database is available; if not, others will find them."""
        self.queue.store.retry.seconds = LEAVE_SECONDS
        with contextlib.suppress(Exception):
            self.queue.release(reason, retries)

    def _hung(self, seconds: float) -> None:
        """Return the claims of an evaluation that hangs, and end. Not in the main thread."""
        reason = f"the evaluation did not end within {seconds:.0f} s"
        self.say(f"{reason}; the worker ends")
        with contextlib.suppress(Exception):
            self.queue.release(f"{keys.REASON_LOST}: {reason}", 1)
        self.abort(reason)

    def _records(self) -> list[Record]:
        return self._reader.read(self.study.get_trials(deepcopy=False))

    def _claim(self) -> list[Claim]:
        """The next cohort: what waits in the queue, or else what the plan proposes."""
        trials = self.study.get_trials(deepcopy=False)
        if time.monotonic() - self._reaped > REAP_SECONDS:
            self._reaped = time.monotonic()
            check_not_all_failed(trials)
            if self.queue.reap(trials):
                trials = self.study.get_trials(deepcopy=False)
        if any(trial.state == TrialState.WAITING for trial in trials):
            waiting = self.queue.claim_waiting(trials, self.cohort)
            if waiting:
                return self._inherit(waiting, self._records())
        now = revision(trials)
        if now == self._idle[0] and time.monotonic() - self._idle[1] < REAP_SECONDS:
            return []  # the plan, a function of the trials, had nothing to do
        records = self._reader.read(trials)
        found = self._plan(records)
        self._phase = found.phase
        if not found.proposals:
            self._idle = (now, time.monotonic())
            return []
        me = self.queue.worker
        others = {w for w in recent_workers(records) if not is_gone(w)}
        proposals = found.share(me, others, self.index, self.cohort)
        return self._inherit(self.queue.claim(proposals), self._reader.read(self.queue.seen))

    def _plan(self, records: Sequence[Record]) -> Plan:
        # A plan of a long study makes tens of thousands of objects; collecting garbage can wait.
        collecting = gc.isenabled()
        gc.disable()
        try:
            n_layers = self.evaluator.n_layers
            return plan(self.definition, n_layers, records, self.sampler, self.cohort)
        finally:
            if collecting:
                gc.enable()

    def _inherit(self, claims: list[Claim], records: Sequence[Record]) -> list[Claim]:
        """Give each claim the answers that earlier trials of its layer set have stored.

        `records` were read after the claims were made.
        """
        best = most_answers(records, {claim.layers for claim in claims})
        for claim in claims:
            earlier = best.get(claim.layers)
            if earlier is not None and earlier.answers is not None:
                claim.inherited = len(earlier.answers)
                claim.record = self.rungs.at(
                    claim.record, earlier.answers, claim.inherited, earlier.halves
                )
        return claims

    # ------------------------------------------------------------------ evaluating

    def _evaluate(self, cohort: list[Claim]) -> None:
        """Bring every claim to its goal, rung by rung; those on the same rung go together."""
        steps = self.rungs.steps
        active = self._advance([c for c in cohort if len(c.answers) in steps])
        active += [c for c in cohort if len(c.answers) not in steps]
        while active:
            claims = {claim.number: claim for claim in active}
            groups = by_rung([claim.record for claim in active], self.rungs)
            active = []
            for (start, stop), group in groups:
                answered = self._answer([claims[r.number] for r in group], start, stop)
                active += self._advance(answered)

    def _answer(self, group: list[Claim], start: int, stop: int) -> list[Claim]:
        """Evaluate claims on the questions from `start` to `stop`; those without an error."""
        coarse = self.definition.questions.fast_precision != "model"
        paid = 0
        if coarse and 0 < start <= self.rungs.n_fast < stop:
            # The fast answers are of another precision: evaluated once more, and paid for.
            start, paid = 0, start
        began = time.monotonic()
        sets = [claim.layers for claim in group]
        total = len(sets) * (stop - start)
        try:
            with self.watchdog.limit(total):
                results = self.evaluator.judge(sets, start, stop)
        finally:
            passes = layer_passes(sets, self.queue.space) * (stop - start)
            seconds = time.monotonic() - began
            self.status.count(total, passes, total * self.evaluator.n_layers - passes, seconds)
        answered = []
        for claim, found in zip(group, results, strict=True):
            if isinstance(found, EvaluationError):
                self.queue.fail(claim, str(found))
            else:
                claim.inherited -= paid
                answers = np.concatenate([claim.answers[:start], found.answers])
                halves = note_rung(
                    claim.record.halves, answers, start, found.logs, self._fast_weights
                )
                claim.record = self.rungs.at(claim.record, answers, claim.inherited, halves)
                answered.append(claim)
        return answered

    def _advance(self, cohort: list[Claim]) -> list[Claim]:
        """Decide and store what becomes of each claim at its rung; those that go on."""
        if not cohort:
            return []
        racing = isinstance(self.study.pruner, RacingPruner)
        if not racing:  # Optuna's own pruners read what is stored
            self.queue.commit([(claim, Outcome.CONTINUE) for claim in cohort])
        mine = {claim.number: claim.record for claim in cohort}
        records = [mine.get(record.number, record) for record in self._records()] if racing else []
        outcomes = advance(list(mine.values()), records, self.rungs, self._prune)
        self.queue.commit([(claim, outcomes[claim.number]) for claim in cohort])
        return [c for c in cohort if outcomes[c.number] is Outcome.CONTINUE]

    def _prune(self, candidates: Sequence[Record], records: Sequence[Record]) -> set[int]:
        """The numbers of the candidates that the study's pruner ends."""
        pruner = self.study.pruner
        if isinstance(pruner, RacingPruner):
            return pruner.on(self.rungs)(candidates, records)
        trials = self.study.get_trials(deepcopy=False)
        return {c.number for c in candidates if pruner.prune(self.study, trials[c.number])}
