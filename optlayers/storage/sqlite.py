"""SQLite files: checks before one is opened, and settings for several processes that share it."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy.engine import make_url

from optlayers.errors import StorageError
from optlayers.storage.redact import mask_password
from optlayers.storage.retry import RetryPolicy, is_unavailable

BUSY_SECONDS = 60
_LEAST_BYTES = 1_000_000  # the write-ahead log of one transaction
# Options in the name of a file, with the values that change nothing.
_FILE_OPTIONS: dict[str, tuple[str, ...]] = {
    "mode": ("rw", "rwc"),
    "cache": ("private",),
    "immutable": ("0",),
    "nolock": ("0",),
    "psow": ("0", "1"),
    "vfs": ("unix",),
}


def set_pragmas(connection: Any, _record: Any) -> None:
    """Give a new connection write-ahead logging and time to wait for other writers."""
    cursor = connection.cursor()
    # With write-ahead logging, NORMAL cannot corrupt the file. A power cut may lose the last
    # commits; what they held is evaluated again.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", f"busy_timeout={BUSY_SECONDS}000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def plain_url(url: str) -> str:
    """An SQLite URL that names its file by a path, also where it is given as `file:` with `uri`.

    Raises `StorageError` for options of such a name that several processes cannot share.
    """
    parts = make_url(url)
    query = dict(parts.query)
    if str(query.pop("uri", "")).lower() not in ("true", "1", "yes", "on", "y", "t"):
        return url
    name = parts.database or ""
    options = {key: query.pop(key) for key in [*query] if key in _FILE_OPTIONS}
    wrong = [f"{key}={value}" for key, value in options.items() if value not in _FILE_OPTIONS[key]]
    path = unquote(urlsplit(name).path) if name.startswith("file:") else name
    if wrong:
        raise StorageError(
            f"storage {mask_password(url)}: {', '.join(wrong)} cannot be used, since several "
            f"processes write; write sqlite:///{path}"
        )
    return parts.set(database=path, query=query).render_as_string(hide_password=False)


def check_file(url: str) -> None:
    """Raise `StorageError` for an SQLite URL that names no file, or a folder that is missing."""
    parts = make_url(url)
    path = parts.database
    if parts.get_driver_name() != "pysqlite":
        raise StorageError(f"storage {mask_password(url)}: unknown driver; write sqlite:///")
    if parts.host or parts.username or "\0" in (path or ""):
        raise StorageError(
            f"storage {mask_password(url)}: names no file; write three slashes and a path, such as "
            "sqlite:///optuna.db"
        )
    if not path or path == ":memory:":
        raise StorageError(
            f"storage {url}: several processes need a file; write for example sqlite:///optuna.db"
        )
    if not Path(path).absolute().parent.is_dir():
        raise StorageError(
            f"storage {url}: the folder {Path(path).absolute().parent} does not exist; create it"
        )


def has_table(url: str, table: str) -> bool:
    """Whether the file has a table of that name; nothing is written."""
    path = Path(str(make_url(url).database)).absolute()
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as file:
            found = file.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,))
            return found.fetchone() is not None
    except sqlite3.Error:
        return path.exists()  # opening it shows what is wrong


def prepare_file(url: str, policy: RetryPolicy, wait: bool) -> None:
    """Put a new file into write-ahead mode; raises `StorageError` where that fails.

    wait: as long as its disk is full, or the file cannot be opened.
    """
    path = str(make_url(url).database)

    def prepare() -> None:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")

    def is_worth_another_try(error: BaseException) -> bool:
        # SQLite ignores its timeout here.
        return "locked" in str(error) or (wait and is_unavailable(error))

    try:
        policy.call(prepare, when=is_worth_another_try)
    except sqlite3.Error as error:
        fix = "name a file that can be written and is an SQLite database"
        free = shutil.disk_usage(Path(path).absolute().parent).free
        if "disk" in str(error) and free < _LEAST_BYTES:
            fix = "its disk is full, so make room"
        raise StorageError(f"storage {url}: {error}; {fix}") from None
