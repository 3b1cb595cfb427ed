"""Which errors of the drivers say that a database is there and refuses for a while."""

from __future__ import annotations

import sqlite3

import psycopg
import pymysql
import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from optlayers.storage.retry import is_refusing, is_unavailable

WHERE = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: FATAL:  '


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT in a read-only transaction"),
        psycopg.errors.AdminShutdown("terminating connection due to administrator command"),
        psycopg.errors.TooManyConnections("too many connections for role"),
        psycopg.OperationalError(f"{WHERE}sorry, too many clients already"),
        psycopg.OperationalError(f"{WHERE}the database system is starting up"),
        psycopg.OperationalError(f"{WHERE}the database system is shutting down"),
        psycopg.OperationalError(f"{WHERE}the database system is in recovery mode"),
        psycopg.OperationalError(f"{WHERE}the database system is not yet accepting connections"),
        psycopg.OperationalError(f"{WHERE}remaining connection slots are reserved for roles"),
        pymysql.err.OperationalError(1040, "Too many connections"),
        pymysql.err.OperationalError(1053, "Server shutdown in progress"),
        pymysql.err.OperationalError(1290, "The server is running with --read-only"),
        pymysql.err.OperationalError(1226, "User has exceeded the 'max_user_connections'"),
        pymysql.err.InternalError(1836, "Running in read-only mode"),
    ],
)
def test_a_server_that_refuses_for_a_while_is_waited_for(error: Exception) -> None:
    wrapped = DBAPIError("INSERT", None, error)
    assert is_refusing(wrapped)
    assert is_unavailable(wrapped)
    inner = StorageInternalError("internal")  # as Optuna raises it
    inner.__cause__ = wrapped
    assert is_unavailable(inner)


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError(f'{WHERE}password authentication failed for user "me"'),
        psycopg.OperationalError(f'{WHERE}database "x" does not exist'),
        pymysql.err.OperationalError(1045, "Access denied for user"),
        pymysql.err.OperationalError(1049, "Unknown database"),
        pymysql.err.OperationalError(2003, "Can't connect to MySQL server"),
        sqlite3.OperationalError("unable to open database file"),
    ],
)
def test_only_a_server_that_says_so_is_taken_to_be_there(error: Exception) -> None:
    assert not is_refusing(OperationalError("SELECT", None, error))


@pytest.mark.parametrize(
    "error",
    [
        IntegrityError("INSERT", None, psycopg.errors.UniqueViolation("duplicate key value")),
        IntegrityError("INSERT", None, pymysql.err.IntegrityError(1062, "Duplicate entry")),
        DBAPIError("INSERT", None, pymysql.err.DataError(1406, "Data too long")),
        OperationalError("SELECT", None, sqlite3.OperationalError("no such table: trials")),
        KeyError("study"),
    ],
)
def test_other_errors_are_not_waited_out(error: Exception) -> None:
    assert not is_unavailable(error)
