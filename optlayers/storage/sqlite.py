"""SQLite files: what Optuna's storage of one needs before several processes meet in it."""

from __future__ import annotations

import random
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from optlayers.errors import StorageError
from optlayers.storage.redact import mask_password

BUSY_SECONDS = 60
_TRIES = 20
# Less room than the log of one transaction takes.
_LEAST = 1_000_000


def set_pragmas(connection: Any, _record: Any) -> None:
    """Set up a new connection: write-ahead logging, and patience with other writers."""
    cursor = connection.cursor()
    # With write-ahead logging, NORMAL cannot corrupt the file; a power cut may only lose the
    # last commits, and what they held is evaluated again.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", f"busy_timeout={BUSY_SECONDS}000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def check_file(url: str) -> None:
    """Raise `StorageError` for an SQLite database that is no file, or in no folder."""
    parts = make_url(url)
    path = parts.database
    if parts.get_driver_name() != "pysqlite":
        raise StorageError(
            f"storage {mask_password(url)}: no driver that is used here; write sqlite:///"
        )
    if parts.host or parts.username or "\0" in (path or ""):
        raise StorageError(
            f"storage {mask_password(url)}: names no file; write three slashes and a path, such as "
            "sqlite:///optuna.db"
        )
    if not path or path == ":memory:":
        raise StorageError(
            f"storage {url}: workers are processes of their own and need a file; "
            "write for example sqlite:///optuna.db"
        )
    if not Path(path).absolute().parent.is_dir():
        raise StorageError(
            f"storage {url}: the folder {Path(path).absolute().parent} does not exist; make it"
        )


def has_table(url: str, table: str) -> bool:
    """Whether the file has a table of that name; nothing is written, not even where it is new."""
    path = Path(str(make_url(url).database)).absolute()
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
        try:
            found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,))
            return found.fetchone() is not None
        finally:
            connection.close()
    except sqlite3.Error:
        return path.exists()  # what is wrong with it is told when it is opened


def prepare_file(url: str) -> None:
    """Put a new SQLite file into write-ahead mode before several processes meet in it."""
    path = str(make_url(url).database)
    try:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS)
        try:
            _write_ahead(connection)
        finally:
            connection.close()
    except sqlite3.Error as error:
        mend = "name a file that can be written and is an SQLite database"
        if "disk" in str(error) and shutil.disk_usage(Path(path).absolute().parent).free < _LEAST:
            mend = "its disk is full, so make room"
        raise StorageError(f"storage {url}: {error}; {mend}") from None


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch the file over; SQLite does not wait for others here, whatever its timeout."""
    for attempt in range(1, _TRIES + 1):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if attempt == _TRIES or "locked" not in str(error):
                raise
            time.sleep(0.02 * attempt * (0.5 + random.random()))
