"""The worker: the loop that joins search and evaluation.

It asks what the study needs next, claims a cohort, evaluates it, and tells each trial, until
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
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from optlayers.config.study import StudyDefinition
from optlayers.errors import EvaluationError, StorageError, TimeUp
from optlayers.evaluation.base import Evaluator, Judged
from optlayers.layerset import LayerSet
from optlayers.search import Goal, Phase, Plan, Proposal, RacingPruner, plan, rungs, sampler_for
from optlayers.search.logprobs import note_rung
from optlayers.storage.heartbeat import is_gone
from optlayers.storage.redact import mask_password
from optlayers.storage.retry import limit_patience
from optlayers.storage.signals import interruptible
from optlayers.storage.worker_status import WorkLog, cpu_name
from optlayers.trials import keys
from optlayers.trials.cost import is_known, key_of
from optlayers.trials.reader import RecordReader
from optlayers.trials.record import Record
from optlayers.trials.statistics import StratifiedScore
from optlayers.workers import heldout as holdout
from optlayers.workers.once import in_turn
from optlayers.workers.queue import Claim, Claims, Told, check_alive, stand
from optlayers.workers.watchdog import Asked

_CONTENDERS = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)

# Small enough that each cohort learns from the last (`benchmarks/search/search.py`), large enough
# to share prefixes of layers; where all sets are known beforehand there is nothing to learn.
COHORT = 8
LISTED = 4
# Between two looks while there is nothing to do; it grows.
POLL_SECONDS, LONGEST_POLL = 0.25, 1.0
REAP_SECONDS = 5.0
EVERYTHING = 1_000_000
RECENT = 60
# How long a worker that was told to leave tries to reach the database.
LEAVE_SECONDS = 3.0


def _end(reason: str) -> None:
    """End a process whose main thread hangs."""
    os._exit(1)


def _pauses(claim: Claim) -> bool:
    """Whether a claim that goes one rung at a time has gone it."""
    return claim.goal == Goal.step and claim.evaluated > 0


@dataclass
class Worker:
    """One worker of one study.

    `index` tells the workers of one machine apart and seeds what they propose; `cohort` is the
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
    _idle: tuple[tuple[int, ...], float] = ((), 0.0)  # trials without work, and when they were
    _slowest: float = 0.0  # seconds of a cohort

    def __post_init__(self) -> None:
        order = self.evaluator.order
        self._publish()
        donors = self.definition.donor_names
        self.claims = Claims(self.study, self.evaluator.n_layers, self.device, donors)
        self.claims.heart.hung = self._hung
        self.asked = Asked(self.evaluator, self.claims.heart, self.hang_seconds)
        self.log = WorkLog(
            self.study,
            self.claims.worker,
            self.evaluator.n_layers,
            self.device,
            self.evaluator.hardware or cpu_name(),
            len(donors),
        )
        self.scorer = StratifiedScore(strata=order.subject, weights=order.weights)
        self.sampler = sampler_for(
            self.definition,
            self.evaluator.n_layers,
            seed=self.definition.seed * 10_007 + self.index,
        )
        self._rungs = rungs(order.n_fast, order.n_full)
        self._reaped = -math.inf

    def _publish(self) -> None:
        """Say in the study what its questions are, or check that they are still the same."""
        order, donors = self.evaluator.order, self.definition.donor_names
        facts: dict[str, Any] = {
            keys.N_LAYERS: self.evaluator.n_layers,
            **({keys.DONORS: list(donors)} if len(donors) > 1 else {}),
            keys.SAMPLER: self.definition.explore.sampler,
            keys.N_FAST: order.n_fast,
            keys.N_FULL: order.n_full,
            keys.QUESTION_STRATA: order.subject.tolist(),
            keys.SUBJECT_WEIGHTS: order.weights.tolist(),
            "subjects": [subject.name for subject in order.subjects],
        }
        known = self.study.user_attrs
        for key, value in facts.items():
            if key not in known:
                self.study.set_user_attr(key, value)
            elif key == keys.SAMPLER and known[key] != value:
                raise StorageError(
                    f"study {self.definition.name!r} was begun with sampler {known[key]!r}, not "
                    f"{value!r}; give --sampler {known[key]}, or another database or study name"
                )
            elif known[key] != value:
                raise StorageError(
                    f"study {self.definition.name!r}: {key} was another when the study began "
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
        self.claims.heart.start()
        try:
            self._measure_cost(end)
            while self._has_time(started):
                held = self._claim()
                if held:
                    began, pause = time.monotonic(), POLL_SECONDS
                    self.log.say(
                        f"{self._phase.value}: {len(held)} layer set{'s' * (len(held) > 1)}"
                    )
                    self._evaluate(held)
                    self._slowest = max(self._slowest, time.monotonic() - began)
                elif self._phase == Phase.done:
                    check_alive(self.study.get_trials(deepcopy=False), least=1)
                    self.say("checking on held-out questions")
                    holdout.check(
                        self.study,
                        self.definition,
                        self._records(),
                        self.asked,
                        self.claims.worker,
                        end=end,
                        say=self.say,
                    )
                    self.log.say("done", now=True)
                    return True
                else:
                    self.log.say(f"{self._phase.value}: waits for other workers")
                    time.sleep(pause)
                    pause = min(1.5 * pause, LONGEST_POLL)
            self.log.say("left: time is up", now=True)
            return False
        except TimeUp:
            self._leave(keys.REASON_INTERRUPTED, 0)
            return False
        except Exception as error:
            # The layer sets themselves may be why: they come back a limited number of times.
            why = mask_password(f"{type(error).__name__}: {error}")
            self._leave(f"{keys.REASON_LOST}: {why}", 1)
            raise
        except BaseException:
            self._leave(f"{keys.REASON_INTERRUPTED}: the worker was stopped", 0)
            raise
        finally:
            self.claims.heart.stop()

    def _measure_cost(self, end: float | None) -> None:
        """Keep with the study what its layers cost, where that is to be counted; once for all."""
        kind = self.definition.cost
        if is_known(self.definition, self.study.user_attrs):
            return

        def measure() -> None:
            n_donors = len(self.definition.donor_names)
            self.study.set_user_attr(key_of(kind), self.evaluator.costs(kind, n_donors))

        in_turn(self.study, self.claims.worker, {f"{kind} of layers": measure}, end=end)

    def _has_time(self, started: float) -> bool:
        """Whether there is time for one cohort more, as long as the slowest so far."""
        if self.max_seconds is None:
            return True
        return time.monotonic() - started + self._slowest < self.max_seconds

    def _leave(self, reason: str, retries: int) -> None:
        """Return the claims, if the database is there; if not, others will find them."""
        limit_patience(self.claims.storage, LEAVE_SECONDS)
        with contextlib.suppress(Exception):
            self.claims.give_back(reason, retries)

    def _hung(self, seconds: float) -> None:
        """An evaluation lasts too long: give up what it holds, and end. Not in the main thread."""
        reason = f"the evaluation did not end within {seconds:.0f} s"
        self.say(f"{reason}; the worker ends")
        with contextlib.suppress(Exception):
            self.claims.give_back(f"{keys.REASON_LOST}: {reason}", 1)
        self.abort(reason)

    def _records(self) -> list[Record]:
        return self._reader.read(self.study.get_trials(deepcopy=False))

    def _claim(self) -> list[Claim]:
        """The next cohort: what waits in the queue, or else what the plan proposes."""
        trials = self.study.get_trials(deepcopy=False)
        if time.monotonic() - self._reaped > REAP_SECONDS:
            self._reaped = time.monotonic()
            check_alive(trials)
            if self.claims.reap(trials):
                trials = self.study.get_trials(deepcopy=False)
        if any(trial.state == TrialState.WAITING for trial in trials):
            waiting = self.claims.pop_waiting(trials, self.cohort)
            if waiting:
                return self._inherit(waiting, self.study.get_trials(deepcopy=False))
        now = stand(trials)
        if now == self._idle[0] and time.monotonic() - self._idle[1] < REAP_SECONDS:
            return []  # the plan, a function of the trials, had nothing to do
        found = self._plan(self._reader.read(trials))
        self._phase = found.phase
        if not found.proposals:
            self._idle = (now, time.monotonic())
            return []
        return self._inherit(self.claims.take(self._choose(found)), self.claims.seen)

    def _plan(self, records: Sequence[Record]) -> Plan:
        # Of a long study a plan makes ten thousands of objects; garbage among them can wait.
        gc.disable()
        try:
            return self._plan_now(records)
        finally:
            gc.enable()

    def _plan_now(self, records: Sequence[Record]) -> Plan:
        exploring = plan(
            self.definition, self.evaluator.n_layers, records, self.sampler, self.cohort
        )
        if exploring.phase in (Phase.explore, Phase.done) or not exploring.proposals:
            return exploring
        return plan(self.definition, self.evaluator.n_layers, records, self.sampler, EVERYTHING)

    def _choose(self, found: Plan) -> list[Proposal]:
        """This worker's share of the plan.

        In the phases that list everything, all workers see one list at one time; each begins
        in a part of its own, by its place among the workers seen lately, so that they seldom
        reach for the same sets.
        """
        everything = list(found.proposals)
        if found.phase == Phase.explore:
            return everything
        lately = {record.worker for record in self._records()[-RECENT:] if record.worker}
        workers = sorted({w for w in lately if not is_gone(w)} | {self.claims.worker})
        # Alone, or the first: leave a half to whoever may come in the same moment.
        place = workers.index(self.claims.worker) if len(workers) > 1 else self.index % 2
        share = max(1, math.ceil(len(everything) / max(2, len(workers))))
        start = share * place
        return (everything[start:] + everything[:start])[: min(share, LISTED * self.cohort)]

    def _inherit(self, claims: list[Claim], trials: Sequence[FrozenTrial]) -> list[Claim]:
        """Give each claim the answers that earlier trials of its layer set have stored.

        `trials` were read after the claims were made.
        """
        best: dict[LayerSet, Record] = {}
        wanted = {claim.layers.indices for claim in claims}
        for record in self._reader.read(trials):
            if record.layers.indices not in wanted:
                continue
            known = best.get(record.layers)
            if record.packed_answers and (record.questions or 0) > (
                (known.questions or 0) if known else 0
            ):
                best[record.layers] = record
        for claim in claims:
            earlier = best.get(claim.layers)
            if earlier is not None and earlier.answers is not None:
                claim.answers = earlier.answers
                claim.halves = earlier.halves_as_stored
                claim.inherited = len(claim.answers)
        return claims

    # ------------------------------------------------------------------ evaluating

    def _evaluate(self, held: list[Claim]) -> None:
        """Bring every claim to its goal, rung by rung, together where they stand alike."""
        weights = self.evaluator.order.fast_weights
        active = self._arrive([c for c in held if len(c.answers) in self._rungs])
        active += [c for c in held if len(c.answers) not in self._rungs]
        while active:
            steps: dict[tuple[int, int], list[Claim]] = {}
            for claim in active:
                steps.setdefault((len(claim.answers), self._next(claim)), []).append(claim)
            active = []
            for (start, stop), group in sorted(steps.items()):
                begin = start
                if self._begins_anew(start, stop):
                    begin = 0
                    for claim in group:
                        claim.inherited -= start  # paid for once more
                results = self._judge([c.layers for c in group], begin, stop)
                whole = []
                for claim, found in zip(group, results, strict=True):
                    if isinstance(found, EvaluationError):
                        self.claims.fail(claim, str(found))
                    else:
                        claim.answers = np.concatenate([claim.answers[:begin], found.answers])
                        claim.halves = note_rung(
                            claim.halves, claim.answers, begin, found.logs, weights
                        )
                        whole.append(claim)
                active += self._arrive(whole)

    def _judge(
        self, sets: list[LayerSet], start: int, stop: int
    ) -> Sequence[Judged | EvaluationError]:
        """What the evaluator says of them, which counts as this worker's."""
        began = time.monotonic()
        try:
            return self.asked.judge(sets, start, stop)
        finally:
            self.log.did(sets, stop - start, time.monotonic() - began)

    def _begins_anew(self, start: int, stop: int) -> bool:
        """Whether a set that goes on so far leaves fast answers of another precision behind."""
        coarse = self.definition.questions.fast_precision != "model"
        return coarse and 0 < start <= self.evaluator.order.n_fast < stop

    def _next(self, claim: Claim) -> int:
        """Number of questions at the claim's next stop."""
        ahead = [rung for rung in self._rungs if rung > len(claim.answers)]
        if claim.goal == Goal.full and len(claim.answers) >= self._rungs[0]:
            return self._rungs[-1]
        return ahead[0]

    def _arrive(self, claims: list[Claim]) -> list[Claim]:
        """Store the scores so far, tell the trials that are over, and return the others.

        All that race are stored before any is judged, so that a cohort races against itself too.
        """
        n_full, n_fast = self._rungs[-1], self.evaluator.order.n_fast
        told = [Told(claim, self.scorer.interval(claim.answers)) for claim in claims]
        over = [
            t
            for t in told
            if len(t.claim.answers) == n_full
            or (t.claim.goal == Goal.fast and len(t.claim.answers) >= n_fast)
        ]
        going = [t for t in told if t not in over]
        self.claims.tell(
            [replace(t, over=True, full=len(t.claim.answers) == n_full) for t in over] + going
        )
        beaten = self._beaten([t.claim for t in going if t.claim.goal != Goal.full])
        ended = [t for t in going if t.claim.number in beaten]
        paused = [t for t in going if t not in ended and _pauses(t.claim)]
        self.claims.tell(
            [replace(t, over=True, beaten=True) for t in ended]
            + [replace(t, over=True) for t in paused]
        )
        return [t.claim for t in going if t not in ended and t not in paused]

    def _beaten(self, claims: list[Claim]) -> set[int]:
        """The numbers of those that the pruner ends."""
        pruner = self.study.pruner
        if not claims:
            return set()
        if not isinstance(pruner, RacingPruner):
            return {claim.number for claim in claims if claim.trial.should_prune()}
        # One look at the study for all of them.
        records = [record for record in self._records() if record.state in _CONTENDERS]
        mine, order = {claim.number for claim in claims}, self.evaluator.order
        return pruner.judge_all(
            [record for record in records if record.number in mine],
            records,
            n_fast=order.n_fast,
            n_full=order.n_full,
            strata=order.subject,
            weights=order.weights,
        )
