"""Storage calls that are tried again, with growing delays, while the database is unavailable.

A database is unavailable when it refuses or breaks connections, starts up, is read-only (as during
a failover), has a full disk, or ends a transaction to resolve a deadlock. A call whose connection
broke may have been carried out, so every write can be repeated.
"""

from __future__ import annotations

import abc
import functools
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Container
from typing import Any, TypeVar

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from optlayers.errors import StorageUnavailableError
from optlayers.storage.parts import join, split
from optlayers.storage.redact import mask_password
from optlayers.storage.signals import without_interrupts

T = TypeVar("T")

RETRY_SECONDS = 300.0
FIRST_DELAY, LONGEST_DELAY = 0.05, 5.0
REPORT_AFTER_SECONDS = 2.0

# SQLite has one error class for temporary and permanent errors; these texts are temporary.
_SQLITE_UNAVAILABLE = ("locked", "disk i/o error", "disk is full", "unable to open")

# What a server says that is there and will serve later: SQLSTATEs, and numbers of MySQL's errors.
# PostgreSQL gives none where it refuses a connection.
_REFUSALS = {
    *("25006", "40001", "40P01", "53000", "53100", "53200", "53300", "53400", "55P03"),
    *("57P01", "57P02", "57P03", "57P05"),
    *(1021, 1037, 1040, 1041, 1053, 1114, 1135, 1203, 1205, 1213, 1226, 1290, 1792, 1836, 1927),
}
_REFUSED = ("the database system is ", "too many clients", "too many connections", "slots are rese")

_thread = threading.local()


def never_retry() -> None:
    """From now on, storage calls of this thread fail at once while the database is unavailable."""
    _thread.never_retry = True


def one_line(error: BaseException) -> str:
    """The message of a driver's error in one line, without the password."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else None
    root: Any = cause or error
    text = getattr(root, "orig", root)
    lines = str(text or type(root).__name__).strip().splitlines()
    return mask_password(lines[0]) if lines else type(root).__name__


def is_unavailable(error: BaseException) -> bool:
    """Whether an error says that the database cannot be used now, but may be later."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    root = cause.orig if isinstance(cause, DBAPIError) else cause
    if isinstance(root, sqlite3.Error):
        return any(words in str(root).lower() for words in _SQLITE_UNAVAILABLE)
    if not isinstance(cause, DBAPIError):
        return False
    if cause.connection_invalidated or is_refusing(cause):
        return True
    return isinstance(cause, OperationalError | InterfaceError)


def is_refusing(error: BaseException) -> bool:
    """Whether a server that is there says that it refuses for a while."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if not isinstance(cause, DBAPIError):
        return False
    known: Any = cause.orig
    codes = [getattr(known, "sqlstate", None), getattr(known, "pgcode", None), *known.args[:1]]
    text = str(known).lower()
    return any(code in _REFUSALS for code in codes) or any(words in text for words in _REFUSED)


class RetryPolicy:
    """How long the calls of one storage are tried again: `seconds` from the first failure.

    say: called when a wait takes long, and when it is over. shown: the name of the database.
    verify: called after other errors; raises where they come from a study that is gone.
    """

    def __init__(self, shown: str = "", say: Callable[[str], None] = lambda text: None) -> None:
        self.shown = shown
        self.seconds = RETRY_SECONDS
        self.say = say
        self.verify: Callable[[], None] = lambda: None

    def call(
        self, function: Callable[[], T], when: Callable[[BaseException], bool] = is_unavailable
    ) -> T:
        """The function's result, called again after errors for which `when` is true.

        Raises `StorageUnavailableError` where the time is up.
        """
        if getattr(_thread, "never_retry", False):
            return function()
        begun, delay, said = 0.0, FIRST_DELAY, False
        while True:
            try:
                with without_interrupts():
                    result = function()
            except Exception as error:
                if not when(error):
                    self.verify()
                    raise
                now = time.monotonic()
                begun = begun or now
                waited, why = now - begun, one_line(error)
                if waited >= self.seconds:
                    raise StorageUnavailableError(
                        f"storage {self.shown}: {why}; unavailable for {waited:.0f} s: fix it, "
                        "then run the same command again to continue"
                    ) from None
                pause = min(delay * (0.5 + random.random()), self.seconds - waited + 0.01)
                if waited + pause >= REPORT_AFTER_SECONDS and not said:
                    said = True
                    self.say(f"waiting for storage {self.shown}: {why}")
                time.sleep(pause)
                delay = min(2 * delay, LONGEST_DELAY)
            else:
                if said:
                    self.say(f"storage {self.shown} is back")
                return result


# Its methods are set below; a type checker would take them to be missing.
_Base: Any = BaseStorage


class RetryingStorage(_Base):
    """A relational database as Optuna's storage, every call of which is retried by `retry`.

    Long user attributes are written and read in parts, so that every database keeps them whole.
    engine: that of the database. is_fast: whether `FastStore` may write to its tables. reopen:
    opens the database again; it is what is pickled.
    """

    def __init__(
        self,
        backend: RDBStorage,
        retry: RetryPolicy,
        is_fast: bool,
        reopen: Callable[[], BaseStorage],
    ) -> None:
        self.retry, self.is_fast, self._reopen = retry, is_fast, reopen
        self.engine: Engine = backend.engine
        self.cached = optuna.storages.get_storage(backend)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reopen, ()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """As in Optuna; a long value in parts."""
        for name, part in split(key, value).items():
            self._call("set_study_user_attr", study_id, name, part)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As in Optuna; a long value in parts."""
        for name, part in split(key, value).items():
            self._call("set_trial_user_attr", trial_id, name, part)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """As in Optuna, with long values."""
        return join(self._call("get_study_user_attrs", study_id))

    def get_all_studies(self) -> list[Any]:
        """As in Optuna, with long values."""
        studies: list[Any] = self._call("get_all_studies")
        for study in studies:
            join(study.user_attrs)
        return studies

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """As in Optuna, with long values."""
        trial: FrozenTrial = self._call("get_trial", trial_id)
        join(trial.user_attrs)
        return trial

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """As in Optuna, with long values."""
        trials: list[FrozenTrial] = self._call("get_all_trials", study_id, deepcopy, states)
        if not self.is_fast:  # else they are joined as they are read
            for trial in trials:
                join(trial.user_attrs)
        return trials

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        return self.retry.call(lambda: getattr(self.cached, name)(*arguments, **options))


def _forward(name: str) -> Callable[..., Any]:
    @functools.wraps(getattr(BaseStorage, name), updated=())
    def call(self: RetryingStorage, *arguments: Any, **options: Any) -> Any:
        return self._call(name, *arguments, **options)

    return call


for _name, _value in vars(BaseStorage).items():
    if callable(_value) and not _name.startswith("_") and _name not in vars(RetryingStorage):
        setattr(RetryingStorage, _name, _forward(_name))
abc.update_abstractmethods(RetryingStorage)
