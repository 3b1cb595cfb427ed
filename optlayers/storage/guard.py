"""Guard: every commit checks that its study is still the one that was opened.

SQLite gives the number of a deleted study to the next one, so a study has an identity besides. The
check is the last statement of each transaction of a storage, Optuna's own included. It also sees
that an SQLite file was removed or replaced: connections would go on writing to the old one.
"""

from __future__ import annotations

import json
import os
import uuid
from typing import Any

import optuna
from sqlalchemy import Connection, Engine, column, event, select, table
from sqlalchemy.exc import DBAPIError

from optlayers.errors import StudyGoneError
from optlayers.storage.retry import is_unavailable
from optlayers.storage.store import store_of

IDENTITY = "optlayers:identity"  # system attribute of a study; no other study has the same
_ATTRS = table("study_system_attributes", column("study_id"), column("key"), column("value_json"))


def guard(study: optuna.Study, shown: str, create: bool) -> None:
    """Check at every later commit of the study's storage that the study is this one.

    shown: the name of the database. create: give it an identity where it has none, as studies of
    version 0.1; else such a study is not checked. Later commits, and calls that fail, raise
    `StudyGoneError` where the study was deleted, or its database removed or replaced.
    """
    store = store_of(study)
    known = store.attrs().get(IDENTITY)
    if known is None and create:
        store.swap_attr(IDENTITY, None, uuid.uuid4().hex)
        known = store.attrs().get(IDENTITY)
    engine: Engine | None = getattr(store.storage, "engine", None)
    if known is None or engine is None:
        return
    # Absolute, since the program may change its working folder.
    path = os.path.abspath(str(engine.url.database)) if engine.dialect.name == "sqlite" else None
    file = _file(path)
    mine = select(_ATTRS.c.value_json).where(
        _ATTRS.c.study_id == store.study_id, _ATTRS.c.key == IDENTITY
    )
    error = (
        f"study {study.study_name!r} is no longer in {shown}: it was deleted, or its database "
        "was removed or replaced; run the same command again to start over"
    )

    def check_file(*_: Any) -> None:
        if _file(path) != file:
            raise StudyGoneError(error)

    def check(connection: Connection) -> None:
        check_file()
        if connection.execute(mine).scalar() != json.dumps(known):
            raise StudyGoneError(error)

    def verify() -> None:
        try:
            with engine.connect() as connection:
                check(connection)
        except DBAPIError as failure:
            if not is_unavailable(failure):  # the tables are gone too
                raise StudyGoneError(error) from None

    event.listen(engine, "do_connect", check_file)  # SQLite would create an empty file
    event.listen(engine, "commit", check)
    store.retry.verify = verify


def _file(path: str | None) -> tuple[int, int] | None:
    """What tells the file from another one of the same name; None: no file, or not there."""
    try:
        found = os.stat(path) if path else None
    except FileNotFoundError:
        return None
    return None if found is None else (found.st_dev, found.st_ino)
