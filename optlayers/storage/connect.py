"""Opening a database as an Optuna storage, and a study in it.

SQLite gets write-ahead logging, so that readers and writers do not wait for each other;
PostgreSQL, MySQL and MariaDB get time limits, so that a lost host is noticed. All calls
wait while the database is unavailable. A study keeps its definition: another one is refused.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from sqlalchemy import create_engine, event, inspect
from sqlalchemy.exc import SAWarning, SQLAlchemyError

from optlayers.config.study import StudyDefinition
from optlayers.errors import MissingStudyError, StorageError, StorageUnavailableError
from optlayers.storage import sqlite, tables
from optlayers.storage.definition import difference, identity
from optlayers.storage.guard import guard
from optlayers.storage.redact import mask_password, remember_password
from optlayers.storage.retry import (
    RetryingStorage,
    RetryPolicy,
    is_refusing,
    is_unavailable,
    one_line,
)
from optlayers.storage.store import server_lock
from optlayers.storage.urls import engine_options, no_driver, parse_url

POOLED = "for PgBouncer in transaction mode add ?prepare_threshold=none to the URL"
DEFINITION = "definition"
FINGERPRINT = "fingerprint"


@contextlib.contextmanager
def storage_errors(url: str, opening: bool = False) -> Iterator[None]:
    """Turn the many errors of drivers into one line that names the database.

    Raises `StorageUnavailableError`; of a database that cannot be opened `StorageError`.
    """
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        told = f"storage {mask_password(url)}: {one_line(error)}"
        pooled = "prepared statement" in told
        if opening and (pooled or not is_refusing(error)):
            fix = POOLED if pooled else "check that the database is up and the URL is right"
            raise StorageError(f"{told}; {fix}") from None
        fix = "fix the database, then run the same command again to continue"
        raise StorageUnavailableError(f"{told}; {POOLED if pooled else fix}") from None


def open_storage(
    url: str,
    say: Callable[[str], None] = lambda text: None,
    wait: bool = False,
    create: bool = True,
) -> BaseStorage:
    """The Optuna storage of a database URL, such as `sqlite:///optuna.db`.

    Its calls wait for up to `RETRY_SECONDS` while the database is unavailable, and call `say`. With
    `wait`, opening it waits too; without `create`, no tables are created, and nothing waits. Raises
    `StorageError` for a bad URL, a missing driver, an unreachable database or another schema, and
    `MissingStudyError` if there are no tables and `create` is False.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    remember_password(url)
    shown = mask_password(url)
    policy = RetryPolicy(shown, say)
    parts = parse_url(url, shown)
    is_sqlite = parts.get_backend_name() == "sqlite"

    def is_worth_another_try(error: BaseException) -> bool:
        # A server that answers has the right URL.
        refused = create and is_refusing(error)
        return refused or _is_race(error) or (wait and is_unavailable(error))

    with storage_errors(url, opening=True):
        try:
            options = engine_options(parts, shown)
            if is_sqlite:
                url = sqlite.plain_url(url)
                sqlite.check_file(url)
            there = create or policy.call(
                lambda: _has_studies(url, options), when=is_worth_another_try
            )
            if not there:
                raise MissingStudyError(f"storage {shown}: it holds no studies; name another")
            if is_sqlite:
                sqlite.prepare_file(url, policy, wait)
            kind = _storage_class(say)
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "Query string argument", SAWarning)
                storage = policy.call(
                    lambda: _create(kind, url, options, create), when=is_worth_another_try
                )
        except ImportError as error:
            raise no_driver(shown, error) from None
        except (RuntimeError, SAWarning) as error:
            # From Optuna, about its tables, or from SQLAlchemy, about what follows the `?`.
            why = str(error).splitlines()[0].partition(" (Background")[0].rstrip(".")
            fix = "" if "upgrade" in why else "; fix it"
            raise StorageError(f"storage {shown}: {why}{fix}") from None
        if is_sqlite:
            event.listen(storage.engine, "connect", sqlite.set_pragmas)
            storage.engine.dispose()  # the connections so far have no pragmas
    reopen = functools.partial(open_storage, url, create=False)
    return RetryingStorage(storage, policy, is_fast=kind is not RDBStorage, reopen=reopen)


def _create(kind: type[RDBStorage], url: str, options: dict[str, Any], create: bool) -> RDBStorage:
    """Optuna's storage; of processes that find a server's database empty, one makes the tables."""
    # Optuna replaces text in braces.
    literal = url.replace("{", "{{").replace("}", "}}")
    with contextlib.ExitStack() as stack:
        if create and not url.startswith("sqlite"):
            engine = create_engine(url, **options)
            stack.callback(engine.dispose)
            if not inspect(engine).has_table("alembic_version"):  # the last of all
                stack.enter_context(server_lock(engine))
        return kind(literal, engine_kwargs=options)


def _storage_class(say: Callable[[str], None]) -> type[RDBStorage]:
    """The class that reads Optuna's tables itself where they are as expected, or Optuna's own."""
    found = tables.difference()
    if found:
        say(
            f"Optuna {optuna.__version__} is not as expected ({found}): its public calls are used, "
            "which are slower; install optuna>=5.0,<5.1"
        )
        return RDBStorage
    from optlayers.storage.read import FastRDBStorage

    return FastRDBStorage


def _is_race(error: BaseException) -> bool:
    """Whether another process has just created a table, or its first row."""
    words = ("already exists", "duplicate key", "duplicate entry", "unique constraint")
    text = f"{error} {error.__cause__}".lower()
    found = any(word in text for word in words) and "prepared statement" not in text
    return found and isinstance(error, SQLAlchemyError | StorageInternalError)


def _has_studies(url: str, options: dict[str, Any]) -> bool:
    """Whether the database has Optuna's tables; nothing is written to it."""
    if url.startswith("sqlite"):
        return sqlite.has_table(url, "studies")
    engine = create_engine(url, **options)
    try:
        return bool(inspect(engine).has_table("studies"))
    finally:
        engine.dispose()


def open_study(
    url: str,
    definition: StudyDefinition,
    sampler: BaseSampler | None = None,
    pruner: BasePruner | None = None,
    create: bool = True,
    say: Callable[[str], None] = lambda text: None,
    wait: bool = False,
) -> optuna.Study:
    """The study of that definition in the database.

    A change of the budget alone (explore, validate, refine) is stored. Raises
    `MissingStudyError` where it is missing and `create` is False, and `StorageError` where it was
    made from another definition. `say` and `wait` as for `open_storage`.
    """
    try:
        storage = open_storage(url, say, wait, create)
    except MissingStudyError:
        raise _not_there(url, definition.name) from None
    with storage_errors(url, opening=True):
        for attempt in range(2):
            try:
                study = optuna.load_study(
                    study_name=definition.name, storage=storage, sampler=sampler, pruner=pruner
                )
                break
            except KeyError:
                if not create or attempt:
                    raise _not_there(url, definition.name) from None
                # Of two workers that create it at once, the second loads it.
                with contextlib.suppress(DuplicatedStudyError):
                    storage.create_new_study([StudyDirection.MAXIMIZE], definition.name)
        attrs = study.user_attrs
        found = attrs.get(FINGERPRINT)
        if found is None and _is_foreign(study):
            # Unless another process has just stored the fingerprint.
            attrs = study.user_attrs
            found = attrs.get(FINGERPRINT)
            if found is None:
                raise StorageError(
                    f"study {definition.name!r} in {mask_password(url)} was not made by "
                    "optlayers; choose another name in the study file or another database"
                )
        # It was found by its name, which optuna-dashboard can change.
        known = {**identity(attrs.get(DEFINITION, {})), "name": definition.name}
        if found not in (None, definition.fingerprint()) and known != definition.identity():
            raise StorageError(
                f"study {definition.name!r} in {mask_password(url)} has another definition: "
                f"{difference(known, definition)}; restore it, or choose "
                "another name or database"
            )
        if found != definition.fingerprint() and create:
            # Before all else: it tells other processes that the study is ours.
            study.set_user_attr(FINGERPRINT, definition.fingerprint())
            study.set_metric_names(["score"])
        if attrs.get(DEFINITION) != definition.to_dict() and create:
            study.set_user_attr(DEFINITION, definition.to_dict())
        guard(study, mask_password(url), create)
    return study


def _is_foreign(study: optuna.Study) -> bool:
    """Whether a study without a fingerprint has more than a name."""
    return (
        study.directions != [StudyDirection.MAXIMIZE]
        or bool(study.user_attrs)
        or bool(study.get_trials(deepcopy=False))
    )


def _not_there(url: str, name: str) -> MissingStudyError:
    return MissingStudyError(
        f"study {name!r} is not in {mask_password(url)}; run `search` with the same --study and "
        "--storage first"
    )


def stored_definition(url: str, name: str) -> dict[str, Any] | None:
    """The definition of a study in the database, or None."""
    try:
        storage = open_storage(url, create=False)
    except MissingStudyError:
        return None
    with storage_errors(url, opening=True):
        try:
            study = optuna.load_study(study_name=name, storage=storage)
        except KeyError:
            return None
        return study.user_attrs.get(DEFINITION)
