"""Patience: storage calls that wait, with growing delays, while their database is away.

A database is away when it refuses connections, breaks them off, starts up, has no room on its disk,
or picks a transaction as the victim of a deadlock. Everything that is written is written so that it
can be tried again: a call whose connection broke may have been carried out.
"""

from __future__ import annotations

import functools
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from optlayers.errors import StorageAwayError
from optlayers.storage.redact import mask_password
from optlayers.storage.signals import in_one_piece

T = TypeVar("T")

PATIENCE_SECONDS = 300.0
FIRST_DELAY, LONGEST_DELAY = 0.05, 5.0
SAY_AFTER_SECONDS = 2.0

# SQLite has one kind of error for what passes and what does not.
_SQLITE_PASSES = ("locked", "disk i/o error", "disk is full", "unable to open")
# The calls of a storage that reach its database; each may be repeated.
_CALLS = (
    "create_new_study",
    "create_new_trial",
    "get_all_studies",
    "get_all_trials",
    "get_study_directions",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_system_attrs",
    "get_study_user_attrs",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
    "set_study_system_attr",
    "set_study_user_attr",
    "set_trial_intermediate_value",
    "set_trial_param",
    "set_trial_state_values",
    "set_trial_system_attr",
    "set_trial_user_attr",
)


_thread = threading.local()


def never_wait() -> None:
    """From here on, storage calls of this thread fail at once where the database is away."""
    _thread.hurried = True


def one_line(error: BaseException) -> str:
    """What a driver has to say, in a line without the password."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else None
    root: Any = cause or error
    text = getattr(root, "orig", root)
    lines = str(text or type(root).__name__).strip().splitlines()
    return mask_password(lines[0]) if lines else type(root).__name__


def is_away(error: BaseException) -> bool:
    """Whether an error says that the database cannot be used now, but may be again."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if not isinstance(cause, SQLAlchemyError):
        return False
    if isinstance(cause, DBAPIError) and type(cause.orig).__module__ == "sqlite3":
        return any(words in str(cause.orig).lower() for words in _SQLITE_PASSES)
    if isinstance(cause, DBAPIError) and cause.connection_invalidated:
        return True
    return isinstance(cause, OperationalError | InterfaceError)


class Patience:
    """How long calls of one storage are tried again: `seconds` from the first failure.

    `say` is told when a wait takes longer, and when it is over; `shown` names the database.
    """

    def __init__(
        self,
        shown: str,
        seconds: float | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.shown = shown
        self.seconds = PATIENCE_SECONDS if seconds is None else seconds
        self.say = say

    def call(self, function: Callable[[], T]) -> T:
        """The function's result; raises `StorageAwayError` when patience is at its end."""
        if getattr(_thread, "hurried", False):
            return function()
        begun, delay, said = 0.0, FIRST_DELAY, False
        while True:
            try:
                with in_one_piece():
                    result = function()
            except Exception as error:
                if not is_away(error):
                    raise
                now = time.monotonic()
                begun = begun or now
                waited, why = now - begun, one_line(error)
                if waited >= self.seconds:
                    raise StorageAwayError(
                        f"storage {self.shown}: {why}; it was away for {waited:.0f} s: mend it, "
                        "then run the same command again to go on"
                    ) from None
                pause = min(delay * (0.5 + random.random()), self.seconds - waited + 0.01)
                if waited + pause >= SAY_AFTER_SECONDS and not said:
                    said = True
                    self.say(f"waiting for storage {self.shown}: {why}")
                time.sleep(pause)
                delay = min(2 * delay, LONGEST_DELAY)
            else:
                if said:
                    self.say(f"storage {self.shown} is back")
                return result


def _waiting(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        return self.patience.call(lambda: real(self, *arguments, **options))

    return call


class PatientStorage(_CachedStorage):
    """Optuna's cached storage of a relational database, every call of which has patience."""

    def __init__(self, backend: RDBStorage, patience: Patience) -> None:
        super().__init__(backend)
        self.patience = patience


for _name in _CALLS:
    setattr(PatientStorage, _name, _waiting(getattr(PatientStorage, _name)))


def patiently(storage: BaseStorage, function: Callable[[], T]) -> T:
    """Call a function that uses the database of that storage, with the storage's patience."""
    patience: Patience | None = getattr(storage, "patience", None)
    return function() if patience is None else patience.call(function)


def limit_patience(storage: BaseStorage, seconds: float) -> None:
    """From here on, calls of that storage wait for at most so long."""
    patience: Patience | None = getattr(storage, "patience", None)
    if patience is not None:
        patience.seconds = seconds


def tell_waits(storage: BaseStorage, say: Callable[[str], None]) -> None:
    """From here on, `say` is told where calls of that storage wait."""
    patience: Patience | None = getattr(storage, "patience", None)
    if patience is not None:
        patience.say = say
