"""StudyStore: the trials and attributes of one Optuna study, changed by one worker at a time.

Here it uses Optuna's public calls, for any storage and any version of Optuna. They write a trial
piece by piece, each in its own commit; `fast.FastStore` does the same with Optuna's tables, a whole
cohort in one commit.
"""

from __future__ import annotations

import contextlib
import fcntl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import TrialState, create_trial
from sqlalchemy import Connection, Engine, text

from optlayers.storage.retry import RetryPolicy

ACTIVE = (TrialState.RUNNING, TrialState.WAITING)
HEARTBEAT_ATTR = "optlayers:beat"  # system attribute of a trial, where there is no table for it
# One writer at a time: locks that a server drops when their connection ends. They return 1. MySQL
# takes names of up to 64 characters.
_SERVER_LOCKS = {
    "postgresql": "SELECT CAST(pg_try_advisory_lock(hashtext('optlayers')) AS integer)",
    "mysql": "SELECT GET_LOCK(SHA1(CONCAT('optlayers ', DATABASE())), 60)",
    "mariadb": "SELECT GET_LOCK(SHA1(CONCAT('optlayers ', DATABASE())), 60)",
}
LOCK_SECONDS = 0.02  # between two attempts to get one
_thread_lock = threading.RLock()


@dataclass(frozen=True)
class NewTrial:
    """A trial to be made: its parameters, their distributions, and its user attributes."""

    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    attrs: Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """A change of the trial `number` from state `old` to `new`, made only where it is in `old`.

    attrs: user attributes. value: the final score. steps: intermediate values. given: parameters
    and user attributes of a trial that another program queued without them. All replace what the
    trial has. requeue: a trial that is put into the queue in the same step.
    """

    number: int
    old: TrialState
    new: TrialState
    attrs: Mapping[str, Any] = field(default_factory=dict)
    value: float | None = None
    steps: Mapping[int, float] = field(default_factory=dict)
    given: NewTrial | None = None
    requeue: NewTrial | None = None


class StudyStore:
    """The trials and system attributes of one study; trials are named by their numbers.

    Processes that write to one database by public calls share a lock: a file next to an SQLite
    database, or a lock of the server. `retry` says how long calls wait while the database is
    unavailable.
    """

    def __init__(self, study: optuna.Study) -> None:
        self.study = study
        self.storage: BaseStorage = study._storage
        self.study_id: int = study._study_id
        self.retry: RetryPolicy = getattr(self.storage, "retry", None) or RetryPolicy()

    def trial_id(self, number: int) -> int:
        """The id of a trial, unique in its database."""
        return self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)

    def insert_running(self, wanted: Sequence[NewTrial], unique: str) -> list[int | None]:
        """Make RUNNING trials; returns their numbers.

        None for a trial whose attribute `unique` is that of a RUNNING or WAITING trial, or of one
        before it in `wanted`.
        """
        with self._lock():
            active = self.storage.get_all_trials(self.study_id, deepcopy=False, states=ACTIVE)
            taken = [trial.user_attrs.get(unique) for trial in active]
            found: list[int | None] = []
            for new in wanted:
                if new.attrs[unique] in taken:
                    found.append(None)
                else:
                    taken.append(new.attrs[unique])
                    trial_id = self._create(new, TrialState.RUNNING)
                    found.append(self.storage.get_trial_number_from_id(trial_id))
            return found

    def _create(self, new: NewTrial, state: TrialState) -> int:
        template = create_trial(
            state=state,
            params=dict(new.params),
            distributions=dict(new.distributions),
            user_attrs=dict(new.attrs),
        )
        return self.storage.create_new_trial(self.study_id, template_trial=template)

    def swap_states(self, changes: Sequence[Change]) -> set[int]:
        """Change trials; returns the numbers of those that were in their old state.

        Nothing is written to the others.
        """
        with self._lock():
            return {change.number for change in changes if self._swap(change)}

    def _swap(self, change: Change) -> bool:
        storage, trial_id = self.storage, self.trial_id(change.number)
        if storage.get_trial(trial_id).state != change.old:
            return False
        starts = change.new == TrialState.RUNNING != change.old
        try:
            if starts and not storage.set_trial_state_values(trial_id, change.new):
                return False
            if change.given is not None:
                self._give(trial_id, change.given)
            for key, item in change.attrs.items():
                storage.set_trial_user_attr(trial_id, key, item)
            for step, score in change.steps.items():
                storage.set_trial_intermediate_value(trial_id, step, score)
            if change.new.is_finished():
                values = None if change.value is None else [change.value]
                storage.set_trial_state_values(trial_id, change.new, values)
        except UpdateFinishedTrialError:
            return False
        if change.requeue is not None:
            self._create(change.requeue, TrialState.WAITING)
        return True

    def _give(self, trial_id: int, given: NewTrial) -> None:
        known = self.storage.get_trial(trial_id).params
        for name, value in given.params.items():
            if name not in known:
                kind = given.distributions[name]
                number = kind.to_internal_repr(value)
                self.storage.set_trial_param(trial_id, name, number, kind)
        for key, item in given.attrs.items():
            self.storage.set_trial_user_attr(trial_id, key, item)

    def attrs(self) -> dict[str, Any]:
        """The system attributes of the study."""
        return self.storage.get_study_system_attrs(self.study_id)

    def put_attrs(self, attrs: Mapping[str, Any]) -> None:
        """Set system attributes of the study."""
        for key, item in attrs.items():
            self.storage.set_study_system_attr(self.study_id, key, item)

    def swap_attr(self, key: str, old: Any, new: Any) -> bool:
        """Set a system attribute of the study if it is `old` (None: not set); whether it was."""
        with self._lock():
            if self.attrs().get(key) != old:
                return False
            self.storage.set_study_system_attr(self.study_id, key, new)
            return True

    def beat(self, numbers: Iterable[int]) -> None:
        """Renew the heartbeats of running trials."""
        for number in sorted(numbers):
            # A trial that has just ended needs no heartbeat.
            with contextlib.suppress(UpdateFinishedTrialError, KeyError):
                self.storage.set_trial_system_attr(
                    self.trial_id(number), HEARTBEAT_ATTR, time.time()
                )

    def heartbeats(self) -> dict[int, tuple[str, float]]:
        """The heartbeat of every RUNNING trial, as a text that changes, and its age in seconds.

        The age is by the database's clock, and 0 where that is not known, as here.
        """
        states = (TrialState.RUNNING,)
        running = self.storage.get_all_trials(self.study_id, deepcopy=False, states=states)
        return {t.number: (str(t.system_attrs.get(HEARTBEAT_ATTR)), 0.0) for t in running}

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        engine: Engine | None = getattr(self.storage, "engine", None)
        with _thread_lock, contextlib.ExitStack() as stack:
            if engine is not None and engine.dialect.name == "sqlite":
                file = stack.enter_context(open(f"{engine.url.database}.lock", "a"))
                fcntl.flock(file, fcntl.LOCK_EX)
            elif engine is not None:
                lock = self.retry.call(lambda: _locked(engine))
                stack.callback(_unlock, lock)
            yield


@contextlib.contextmanager
def server_lock(engine: Engine) -> Iterator[None]:
    """Hold the lock of a server's database."""
    lock = _locked(engine)
    try:
        yield
    finally:
        _unlock(lock)


def _locked(engine: Engine) -> Connection:
    """A connection that holds the lock of its database."""
    connection = engine.connect()
    while connection.execute(text(_SERVER_LOCKS[engine.dialect.name])).scalar() != 1:
        # Behind PgBouncer, others need the server's connection meanwhile.
        connection.rollback()
        time.sleep(LOCK_SECONDS)
    return connection


def _unlock(lock: Connection) -> None:
    lock.invalidate()  # so that the connection ends
    lock.close()


def store_of(study: optuna.Study) -> StudyStore:
    """The store of a study: fast where `open_storage` found Optuna's tables as expected."""
    if getattr(study._storage, "is_fast", False):
        from optlayers.storage.fast import FastStore

        return FastStore(study)
    return StudyStore(study)
