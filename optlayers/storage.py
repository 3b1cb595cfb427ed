"""Storage: a database URL becomes an Optuna storage, and a study in it.

SQLite gets write-ahead logging, so that readers and writers do not wait for each other; every
database gets heartbeats. A study is tied to its definition: one of another definition is refused.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import re
import sqlite3
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from optlayers.errors import StorageError
from optlayers.study import StudyDefinition

DEFAULT_URL = "sqlite:///optuna.db"
HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 60
BUSY_SECONDS = 60
CREATE_TRIES = 20

DEFINITION = "definition"
FINGERPRINT = "fingerprint"


def mask_password(url: str) -> str:
    """The URL with its password as `***`, fit to be shown."""
    # To the last @, so that a password which holds one does not show its end.
    masked = re.sub(r"(://[^:/@\s]*):.*@", r"\1:***@", url)
    return re.sub(r"([?&]password=)[^&\s]*", r"\1***", masked)


def quiet_optuna() -> None:
    """Keep Optuna's log lines and the warnings of what is used on purpose off the screen."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    warnings.filterwarnings("ignore", message=".*Heartbeat of storage is supposed.*")
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    # With write-ahead logging, NORMAL cannot corrupt the file; a power cut may only lose the
    # last commits, and what they held is evaluated again.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", f"busy_timeout={BUSY_SECONDS}000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


@contextlib.contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn the many errors of drivers into one line that names the database."""
    shown = mask_password(url)
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        cause = error.__cause__ or error
        text = mask_password(str(getattr(cause, "orig", cause)).strip().splitlines()[0])
        raise StorageError(
            f"storage {shown}: {text}; check that the database is up and the URL is right"
        ) from None


def open_storage(url: str) -> BaseStorage:
    """The Optuna storage of a database URL, such as `sqlite:///optuna.db`.

    Raises `StorageError` for a URL that is none, a missing driver, a database that cannot be
    reached, or one of another schema.
    """
    quiet_optuna()
    shown = mask_password(url)
    try:
        backend = make_url(url).get_backend_name()
        make_url(url).get_dialect()
    except NoSuchModuleError as error:
        raise StorageError(f"storage {shown}: {error}; mend the part before ://") from None
    except (ArgumentError, ValueError):
        raise StorageError(
            f"storage {shown}: not a database URL; write for example {DEFAULT_URL} or "
            "postgresql+psycopg://user@host/database"
        ) from None
    except ImportError as error:
        raise StorageError(
            f"storage {shown}: its driver is missing ({error}); install optlayers[postgres] "
            "or optlayers[mysql]"
        ) from None
    options: dict[str, Any] = {}
    if backend == "sqlite":
        options["connect_args"] = {"timeout": BUSY_SECONDS}
    else:
        options["pool_pre_ping"] = True
    with storage_errors(url):
        try:
            if backend == "sqlite":
                _prepare_sqlite(url)
            storage = _open_tables(url, options)
        except (ModuleNotFoundError, ImportError) as error:
            raise StorageError(
                f"storage {shown}: its driver is missing ({error}); install optlayers[postgres] "
                "or optlayers[mysql]"
            ) from None
        except RuntimeError as error:
            raise StorageError(f"storage {shown}: {str(error).splitlines()[0]}") from None
        if backend == "sqlite":
            event.listen(storage.engine, "connect", _pragmas)
            storage.engine.dispose()  # the connections so far know no pragmas
    return _CachedStorage(storage)


def _open_tables(url: str, options: dict[str, Any]) -> RDBStorage:
    """Optuna's storage of that URL, whose tables several processes may be making at once.

    Whoever comes second fails where the first is just making a table; it looks again.
    """
    for attempt in range(1, CREATE_TRIES + 1):
        try:
            return RDBStorage(
                url,
                engine_kwargs=options,
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
            )
        except (StorageInternalError, SQLAlchemyError) as error:
            text = f"{error} {error.__cause__}".lower()
            racing = any(
                w in text for w in ("already exists", "duplicate key", "unique constraint")
            )
            if attempt == CREATE_TRIES or not racing:
                raise
            time.sleep(0.02 * attempt * (0.5 + random.random()))
    raise AssertionError("unreachable")


def _prepare_sqlite(url: str) -> None:
    """Put a new SQLite file into write-ahead mode before several processes meet in it."""
    path = make_url(url).database
    if not path or path == ":memory:":
        raise StorageError(
            f"storage {url}: workers are processes of their own and need a file; "
            f"write for example {DEFAULT_URL}"
        )
    if not Path(path).absolute().parent.is_dir():
        raise StorageError(
            f"storage {url}: the folder {Path(path).absolute().parent} does not exist; make it"
        )
    try:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS)
        try:
            _write_ahead(connection)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StorageError(
            f"storage {url}: {error}; name a file that can be written and is an SQLite database"
        ) from None


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch the file over; SQLite does not wait for others here, whatever its timeout."""
    for attempt in range(1, CREATE_TRIES + 1):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if attempt == CREATE_TRIES or "locked" not in str(error):
                raise
            time.sleep(0.02 * attempt * (0.5 + random.random()))


def open_study(
    url: str,
    definition: StudyDefinition,
    sampler: BaseSampler | None = None,
    pruner: BasePruner | None = None,
    create: bool = True,
) -> optuna.Study:
    """The study of that definition in the database.

    Raises `StorageError` where it is missing (and `create` is false), or was made from another
    definition; a change of the budget alone (explore, validate, refine) is taken over.
    """
    if not create and _is_missing_file(url):
        # Opening it would leave an empty database behind.
        raise _not_there(url, definition.name)
    storage = open_storage(url)
    with storage_errors(url):
        for attempt in range(2):
            try:
                study = optuna.load_study(
                    study_name=definition.name, storage=storage, sampler=sampler, pruner=pruner
                )
                break
            except KeyError:
                if not create or attempt:
                    raise _not_there(url, definition.name) from None
                # Two workers may create it at once: the second loads what the first made.
                with contextlib.suppress(DuplicatedStudyError):
                    storage.create_new_study(
                        [optuna.study.StudyDirection.MAXIMIZE], definition.name
                    )
        attrs = study.user_attrs
        found = attrs.get(FINGERPRINT)
        if found is None and _is_foreign(study):
            # Unless another process signed it between the two looks.
            attrs = study.user_attrs
            found = attrs.get(FINGERPRINT)
            if found is None:
                raise StorageError(
                    f"study {definition.name!r} in {mask_password(url)} was not made by "
                    "optlayers; choose another name in the study file or another database"
                )
        if found not in (None, definition.fingerprint()):
            raise StorageError(
                f"study {definition.name!r} in {mask_password(url)} has another definition: "
                f"{_difference(attrs.get(DEFINITION, {}), definition)}; restore it, or choose "
                "another name or database"
            )
        if found is None and create:
            # First of all: by it a second process, or a later one, knows the study as ours.
            study.set_user_attr(FINGERPRINT, definition.fingerprint())
            study.set_metric_names(["score"])
        if attrs.get(DEFINITION) != definition.to_dict() and create:
            study.set_user_attr(DEFINITION, definition.to_dict())
    return study


def _is_foreign(study: optuna.Study) -> bool:
    """Whether a study without a fingerprint is more than a name that was just taken."""
    return (
        study.directions != [optuna.study.StudyDirection.MAXIMIZE]
        or bool(study.user_attrs)
        or bool(study.get_trials(deepcopy=False))
    )


def _is_missing_file(url: str) -> bool:
    """Whether the URL names an SQLite file that is not there."""
    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        return False
    path = parts.database
    known = parts.get_backend_name() == "sqlite" and path and path != ":memory:"
    return bool(known) and Path(str(path)).parent.is_dir() and not Path(str(path)).exists()


def _not_there(url: str, name: str) -> StorageError:
    return StorageError(
        f"study {name!r} is not in {mask_password(url)}; start it with "
        f"`optlayers search --study {name}`"
    )


def stored_definition(url: str, name: str) -> dict[str, Any] | None:
    """The definition that a study in the database was made from, or None."""
    storage = open_storage(url)
    with storage_errors(url):
        try:
            study = optuna.load_study(study_name=name, storage=storage)
        except KeyError:
            return None
        found: dict[str, Any] | None = study.user_attrs.get(DEFINITION)
        return found


def _difference(stored: dict[str, Any], definition: StudyDefinition) -> str:
    """The first fields that differ, as `field: stored, now`."""
    mine = definition.identity()
    parts = [
        f"{key} is {json.dumps(stored.get(key))} there and {json.dumps(mine[key])} here"
        for key in mine
        if stored.get(key) != mine[key]
    ]
    return "; ".join(parts[:3]) or "its fingerprint differs"
