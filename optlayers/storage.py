"""Storage: a database URL becomes an Optuna storage, and a study in it.

SQLite gets write-ahead logging, so that readers and writers do not wait for each other; every
database gets heartbeats. A study is tied to its definition: one of another definition is refused.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import warnings
from collections.abc import Iterator
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

DEFINITION = "definition"
FINGERPRINT = "fingerprint"


def mask_password(url: str) -> str:
    """The URL with its password as `***`, fit to be shown."""
    return re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", url)


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
    except (ArgumentError, ValueError):
        raise StorageError(
            f"storage {shown}: not a database URL; write for example {DEFAULT_URL} or "
            "postgresql+psycopg://user@host/database"
        ) from None
    except NoSuchModuleError as error:
        raise StorageError(f"storage {shown}: {error}; mend the part before ://") from None
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
            storage = RDBStorage(
                url,
                engine_kwargs=options,
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
            )
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


def _prepare_sqlite(url: str) -> None:
    """Put a new SQLite file into write-ahead mode before several processes meet in it."""
    import sqlite3
    from pathlib import Path

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
            connection.execute("PRAGMA journal_mode=WAL")
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StorageError(
            f"storage {url}: {error}; name a file that can be written and is an SQLite database"
        ) from None


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
                    raise StorageError(
                        f"study {definition.name!r} is not in {mask_password(url)}; start it with "
                        f"`optlayers search --study {definition.name}`"
                    ) from None
                # Two workers may create it at once: the second loads what the first made.
                with contextlib.suppress(DuplicatedStudyError):
                    storage.create_new_study(
                        [optuna.study.StudyDirection.MAXIMIZE], definition.name
                    )
        attrs = study.user_attrs
        found = attrs.get(FINGERPRINT)
        if found is None and (len(study.get_trials(deepcopy=False)) or DEFINITION in attrs):
            raise StorageError(
                f"study {definition.name!r} in {mask_password(url)} was not made by optlayers; "
                "choose another name in the study file or another database"
            )
        if found not in (None, definition.fingerprint()):
            raise StorageError(
                f"study {definition.name!r} in {mask_password(url)} has another definition: "
                f"{_difference(attrs.get(DEFINITION, {}), definition)}; restore it, or choose "
                "another name or database"
            )
        if attrs.get(DEFINITION) != definition.to_dict() and create:
            study.set_user_attr(DEFINITION, definition.to_dict())
        if found is None and create:
            study.set_metric_names(["score"])
            study.set_user_attr(FINGERPRINT, definition.fingerprint())
    return study


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
