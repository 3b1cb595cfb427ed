"""Names and addresses: renamed studies, SQLite files as URIs, options of PostgreSQL's driver."""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import psycopg
import pytest
from optuna_dashboard import wsgi
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError

from optlayers.cli.options import read_study
from optlayers.config.study import parse_study
from optlayers.errors import InputError, StorageError, StorageUnavailableError
from optlayers.storage import sqlite
from optlayers.storage.connect import open_study, storage_errors, stored_definition
from optlayers.storage.urls import engine_options
from tests.helpers.finished import Finished
from tests.helpers.replay import STUDY, definition


def copied(finished: Finished, folder: Path) -> str:
    """The URL of a copy of the database."""
    with (
        contextlib.closing(sqlite3.connect(finished.folder / "optuna.db")) as source,
        contextlib.closing(sqlite3.connect(folder / "optuna.db")) as target,
    ):
        source.backup(target)
    return f"sqlite:///{folder}/optuna.db"


def rename(url: str, old: str, new: str) -> None:
    """Rename a study in optuna-dashboard."""
    storage = optuna.storages.RDBStorage(url)
    number = storage.get_study_id_from_name(old)
    body = json.dumps({"study_name": new}).encode()
    status: list[str] = []
    wsgi(storage)(
        {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": f"/api/studies/{number}/rename",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
        },
        lambda line, headers, error=None: status.append(line),
    )
    assert status[0].startswith("201"), status


@pytest.mark.parametrize("name", ["second", "The second (of two)/réseau"])
def test_a_study_renamed_in_the_dashboard_goes_by_its_new_name(
    finished: Finished, tmp_path: Path, name: str
) -> None:
    url = copied(finished, tmp_path)
    rename(url, "replayed", name)
    view = read_study(name, url)
    assert view.definition.name == name
    assert view.status()["study"] == name
    assert [row.layers for row in view.leaderboard[:3]] == [
        row.layers for row in finished.view.leaderboard[:3]
    ]
    with pytest.raises(InputError, match="'replayed': neither a file nor"):
        read_study("replayed", url)


def test_a_search_goes_on_under_the_new_name_of_its_study(
    finished: Finished, tmp_path: Path
) -> None:
    url = copied(finished, tmp_path)
    rename(url, "replayed", "second")
    mine = parse_study(STUDY.replace("replayed", "second") + "seed: 0\n", "x.yaml", Path())
    assert len(open_study(url, mine).trials) == len(finished.study.trials)
    assert stored_definition(url, "second") == mine.to_dict()
    other = parse_study(STUDY.replace("replayed", "second") + "seed: 1\n", "x.yaml", Path())
    with pytest.raises(StorageError, match="another definition: seed is 0 there and 1 here"):
        open_study(url, other)


@pytest.mark.parametrize(
    "name",
    [
        "file:{0}/a%20b.db?uri=true",
        "file://{0}/a%20b.db?mode=rwc&uri=true",
        "file://localhost{0}/a%20b.db?uri=1&cache=private&timeout=5",
        "{0}/a b.db?uri=true",
    ],
)
def test_a_study_in_a_file_named_by_a_uri_is_found_again(tmp_path: Path, name: str) -> None:
    url = "sqlite:///" + name.format(tmp_path)
    open_study(url, definition())
    assert stored_definition(url, "replayed") == definition().to_dict()
    assert stored_definition(f"sqlite:///{tmp_path}/a b.db", "replayed") is not None
    assert {path.name.partition(".db")[0] for path in tmp_path.iterdir()} == {"a b"}
    assert [p.name for p in Path().glob("file:*")] == []


@pytest.mark.parametrize("option", ["mode=ro", "mode=memory", "cache=shared", "immutable=1"])
def test_a_uri_that_processes_cannot_share_is_refused(tmp_path: Path, option: str) -> None:
    url = f"sqlite:///file:{tmp_path}/a.db?{option}&uri=true"
    with pytest.raises(StorageError, match=f"{option} cannot be used") as caught:
        open_study(url, definition())
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["sqlite:///a.db", "sqlite:///file:a.db", "sqlite:///a.db?uri=no"])
def test_other_urls_are_taken_literally(url: str) -> None:
    assert sqlite.plain_url(url) == url


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("7", 7), ("none", None), ("None", None)])
def test_the_prepare_threshold_reaches_the_driver(text: str, value: int | None) -> None:
    url = make_url(f"postgresql+psycopg://me@host/db?prepare_threshold={text}")
    options: Any = engine_options(url, "")["connect_args"]
    assert options["prepare_threshold"] == value
    assert "prepare_threshold" not in engine_options(url.set(query={}), "")["connect_args"]


def test_a_prepare_threshold_that_is_no_number_is_refused() -> None:
    url = make_url("postgresql+psycopg://me@host/db?prepare_threshold=off")
    with pytest.raises(StorageError, match="prepare_threshold is 'off'; write a number, or none"):
        engine_options(url, "postgresql+psycopg://me@host/db")


@pytest.mark.parametrize("opening", [True, False])
def test_a_statement_of_another_session_names_the_option(opening: bool) -> None:
    def fail() -> None:
        with storage_errors("postgresql+psycopg://me@host/db", opening):
            cause = psycopg.errors.DuplicatePreparedStatement(
                'prepared statement "_pg3_0" already exists'
            )
            raise ProgrammingError("SELECT 1", {}, cause)

    with pytest.raises((StorageError, StorageUnavailableError)) as caught:
        fail()
    assert "already exists; for PgBouncer in transaction mode add ?prepare_threshold=none" in str(
        caught.value
    )
    assert caught.value.exit_code == (2 if opening else 1)
