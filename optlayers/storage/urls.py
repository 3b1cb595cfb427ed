"""Database URLs: their parts, checked, and the options of an engine for each."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from optlayers.errors import StorageError
from optlayers.storage import sqlite

DEFAULT_URL = "sqlite:///optuna.db"
POSTGRES_URL = "postgresql+psycopg://user@host/database"
CONNECT_SECONDS = 10
# Longer than any of our statements: a connection that is silent for so long is broken.
SILENCE_SECONDS = 120

_DRIVERS = {
    "postgresql": "write postgresql+psycopg://, and install optlayers[postgres]",
    "mysql": "write mysql+pymysql://, and install optlayers[mysql]",
    "mariadb": "write mysql+pymysql://, and install optlayers[mysql]",
}


def parse_url(url: str, shown: str) -> URL:
    """The parts of a database URL; raises `StorageError` if it is not one."""
    if url.startswith("grpc"):
        raise StorageError(
            f"storage {shown}: the gRPC proxy was removed; workers on several machines share a "
            f"PostgreSQL database: {POSTGRES_URL}"
        )
    try:
        parts = make_url(url)
        parts.get_dialect()
    except NoSuchModuleError as error:
        raise StorageError(f"storage {shown}: {error}; fix the part before ://") from None
    except (ArgumentError, ValueError):
        signs = "; in a password write @ : / % # as %40 %3A %2F %25 %23" if shown != url else ""
        raise StorageError(
            f"storage {shown}: not a database URL; write for example {DEFAULT_URL} or "
            f"{POSTGRES_URL}{signs}"
        ) from None
    except ImportError as error:
        raise no_driver(shown, error) from None
    if "@" in (parts.host or ""):
        # The driver would look for that host, and show a part of the password.
        raise StorageError(
            f"storage {shown}: there is more than one at sign before the host; write one that "
            "belongs to the password as %40"
        )
    return parts


def no_driver(shown: str, error: Exception) -> StorageError:
    """The error of a database whose driver is not installed, with what to install."""
    backend = shown.partition(":")[0].partition("+")[0]
    fix = _DRIVERS.get(backend, "use SQLite, PostgreSQL, MySQL or MariaDB")
    why = str(error).splitlines()[0].rstrip(".")
    return StorageError(f"storage {shown}: its driver is missing ({why}); {fix}")


def engine_options(parts: URL, shown: str) -> dict[str, Any]:
    """Options of SQLAlchemy's engine for that database."""
    backend, driver = parts.get_backend_name(), parts.get_driver_name()
    if backend == "sqlite":
        return {"connect_args": {"timeout": sqlite.BUSY_SECONDS}}
    options: dict[str, Any] = {"pool_pre_ping": True}
    if driver in ("psycopg", "psycopg2"):
        options["connect_args"] = {
            "connect_timeout": CONNECT_SECONDS,
            "keepalives_idle": SILENCE_SECONDS // 4,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 1000 * SILENCE_SECONDS,
        }
        # The driver takes a number, and SQLAlchemy passes on the text of the URL.
        if (threshold := parts.query.get("prepare_threshold")) is not None:
            options["connect_args"]["prepare_threshold"] = _threshold(str(threshold), shown)
    elif driver in ("pymysql", "mysqldb"):
        options["connect_args"] = {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": SILENCE_SECONDS,
            "write_timeout": SILENCE_SECONDS,
        }
    if backend in ("mysql", "mariadb"):
        # As in PostgreSQL; the default locks gaps between rows, which leads to deadlocks.
        options["isolation_level"] = "READ COMMITTED"
    return options


def _threshold(value: str, shown: str) -> int | None:
    """After how many executions psycopg prepares a statement; None: never."""
    if value.lower() in ("none", ""):
        return None
    if not value.isdecimal():
        raise StorageError(
            f"storage {shown}: prepare_threshold is {value!r}; write a number, or none for "
            "PgBouncer in transaction mode"
        )
    return int(value)
