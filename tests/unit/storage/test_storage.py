"""The storage on real SQLite files: its errors in one line, its pragmas, whose study it is."""

from __future__ import annotations

import pickle
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy import text

from optlayers.api import SearchResult
from optlayers.config.study import StudyDefinition, parse_study
from optlayers.errors import MissingStudyError, StorageError, StorageUnavailableError
from optlayers.search import PatternGASampler, pruner_for
from optlayers.storage.connect import (
    FINGERPRINT,
    open_storage,
    open_study,
    storage_errors,
    stored_definition,
)
from optlayers.storage.retry import RetryingStorage
from tests.helpers.replay import STUDY, definition, url_in


def changed(old: str, new: str) -> StudyDefinition:
    assert old in STUDY
    return parse_study(STUDY.replace(old, new) + "seed: 0\n", "replayed.yaml", Path())


def message_of(url: str) -> str:
    with pytest.raises(StorageError) as caught:
        open_storage(url)
    line = str(caught.value)
    assert "\n" not in line
    return line


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize("opening", [True, False])
def test_an_error_of_the_driver_is_one_line_without_the_password(opening: bool) -> None:
    def fail() -> None:
        with storage_errors("postgresql://me:s3cret@host/db", opening):
            cause = ValueError("cannot reach postgresql://me:s3cret@host/db\nmore lines")
            raise optuna.exceptions.StorageInternalError("internal") from cause

    with pytest.raises((StorageError, StorageUnavailableError)) as caught:
        fail()
    # Input is at fault only where it is read: later, the command may be run again as it is.
    assert caught.value.exit_code == (2 if opening else 1)
    assert "s3cret" not in str(caught.value)
    assert "cannot reach" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", ["nonsense", "not a database URL", "sqlite:///optuna.db"]),
        ("", ["not a database URL"]),
        ("postgresql://me:s3cret@host:port/db", ["***", "not a database URL"]),
        ("wonder://me:s3cret@host/db", ["***", "wonder", "fix the part before ://"]),
        ("grpc://host:13000", ["the gRPC proxy was removed", "postgresql+psycopg://user@host"]),
        ("mysql+mysqldb://me:s3cret@host/db", ["***", "driver", "optlayers[mysql]"]),
        ("sqlite:///:memory:", ["file"]),
        ("sqlite://", ["file"]),
        ("sqlite://host/x.db", ["names no file", "three slashes"]),
        ("sqlite://me:s3cret@/x.db", ["names no file", "***"]),
        ("sqlite:///a%00.db", ["names no file"]),
        ("sqlite+aiosqlite:///x.db", ["driver", "write sqlite:///"]),
        (
            "postgresql+psycopg://me:s3cret@host:no/db",
            ["me:***@host:no/db", "not a database URL", "in a password write"],
        ),
    ],
)
def test_a_url_that_cannot_serve_is_one_line_with_the_fix(url: str, words: list[str]) -> None:
    line = message_of(url)
    assert "s3cret" not in line
    for word in words:
        assert word in line


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    line = message_of(f"sqlite:///{tmp_path}/none/optuna.db")
    assert f"{tmp_path}/none" in line
    assert "create it" in line


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("these are my notes\n" * 100)
    assert "SQLite database" in message_of(f"sqlite:///{path}")
    assert path.read_text().startswith("these are my notes")


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    assert "can be written" in message_of(f"sqlite:///{tmp_path}")


def test_a_place_where_nothing_can_be_made_is_refused() -> None:
    # Refused to root too, unlike a file without write permission.
    line = message_of("sqlite:////proc/optuna.db")
    assert "can be written" in line


def test_a_database_that_disappears_is_one_line(tmp_path: Path) -> None:
    study = open_study(url_in(tmp_path), definition())
    with sqlite3.connect(tmp_path / "optuna.db") as other:
        other.execute("DROP TABLE study_user_attributes")
    with (
        pytest.raises(
            StorageUnavailableError, match=r"no such table.*run the same command"
        ) as caught,
        storage_errors(url_in(tmp_path)),
    ):
        _ = study.user_attrs
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------ URLs


@pytest.mark.parametrize("name", ["a{1}", "{{x}}", "{SCHEMA_VERSION}", "{", "100%", "a b#c@d:e"])
def test_a_url_names_the_file_that_it_says(tmp_path: Path, name: str) -> None:
    url = f"sqlite:///{tmp_path}/{name}.db"
    open_study(url, definition())
    assert stored_definition(url, "replayed") == definition().to_dict()
    assert (tmp_path / f"{name}.db").is_file()
    found = {path.name.removesuffix("-wal").removesuffix("-shm") for path in tmp_path.iterdir()}
    assert found == {f"{name}.db"}


# ------------------------------------------------------------------ connections


def test_every_connection_writes_ahead_and_waits_for_others(tmp_path: Path) -> None:
    storage = open_storage(url_in(tmp_path))
    assert isinstance(storage, RetryingStorage)
    engine = storage.engine
    with engine.connect() as first, engine.connect() as second:
        for connection in (first, second):
            found = {
                name: connection.execute(text(f"PRAGMA {name}")).scalar()
                for name in ("journal_mode", "busy_timeout", "synchronous")
            }
            assert found == {"journal_mode": "wal", "busy_timeout": 60_000, "synchronous": 1}


# ------------------------------------------------------------------ whose study it is


def test_reading_a_study_that_is_not_there_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"'replayed' is not in .*; run `search` with the same"):
        open_study(url_in(tmp_path), definition(), create=False)
    assert list(tmp_path.iterdir()) == []
    assert stored_definition(url_in(tmp_path), "replayed") is None
    assert list(tmp_path.iterdir()) == []
    open_study(url_in(tmp_path), changed("name: replayed", "name: another"))
    with pytest.raises(StorageError, match="'replayed' is not in"):
        open_study(url_in(tmp_path), definition(), create=False)


def test_reading_leaves_the_database_of_another_program_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    before = path.read_bytes()
    url = f"sqlite:///{path}"
    with pytest.raises(MissingStudyError, match="'replayed' is not in"):
        open_study(url, definition(), create=False)
    assert stored_definition(url, "replayed") is None
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_sqlite_does_not_know_in_a_url_is_told(tmp_path: Path) -> None:
    line = message_of(url_in(tmp_path) + "?mode=ro")
    assert "'mode' are not accepted" in line
    assert line.endswith("; fix it")


def test_the_definition_is_stored_and_opens_again(tmp_path: Path) -> None:
    open_study(url_in(tmp_path), definition())
    again = open_study(url_in(tmp_path), definition(), create=False)
    assert again.user_attrs[FINGERPRINT] == definition().fingerprint()
    assert stored_definition(url_in(tmp_path), "replayed") == definition().to_dict()
    assert stored_definition(url_in(tmp_path), "another") is None
    assert again.metric_names == ["score"]


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("max: 3", "max: 2", "layers.max is 3 there and 2 here"),
        ("full: 20", "full: 19", "questions.full is 20 there and 19 here"),
        ("model: b", "model: c", 'base.model is "b" there and "c" here'),
        ("name: t}]", "name: u}]", r"tasks is \[{\"name\": \"t\".* here"),
    ],
)
def test_another_definition_is_refused_with_the_field_that_differs(
    tmp_path: Path, old: str, new: str, field: str
) -> None:
    open_study(url_in(tmp_path), definition())
    with pytest.raises(StorageError, match=f"another definition: {field};"):
        open_study(url_in(tmp_path), changed(old, new))
    assert stored_definition(url_in(tmp_path), "replayed") == definition().to_dict()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("population: 8", "population: 9"),
        ("validate: {top: 4}", "validate: {top: 5}"),
        ("rounds: 3", "rounds: 1"),
    ],
)
def test_a_changed_budget_is_taken_over(tmp_path: Path, old: str, new: str) -> None:
    open_study(url_in(tmp_path), definition())
    open_study(url_in(tmp_path), changed(old, new))
    assert stored_definition(url_in(tmp_path), "replayed") == changed(old, new).to_dict()


def test_a_study_of_before_a_field_was_added_goes_on(tmp_path: Path) -> None:
    study = open_study(url_in(tmp_path), definition())
    older = definition().to_dict()
    del older["seed"], older["questions"]["holdout"]  # both at their defaults
    study.set_user_attr("definition", older)
    study.set_user_attr(FINGERPRINT, "as it was then")
    again = open_study(url_in(tmp_path), definition())
    assert again.user_attrs[FINGERPRINT] == definition().fingerprint()
    assert again.user_attrs["definition"] == definition().to_dict()


def foreign_trials(storage: Any) -> None:
    optuna.create_study(study_name="replayed", storage=storage, direction="maximize").enqueue_trial(
        {}
    )


def foreign_direction(storage: Any) -> None:
    optuna.create_study(study_name="replayed", storage=storage, direction="minimize")


def foreign_attributes(storage: Any) -> None:
    study = optuna.create_study(study_name="replayed", storage=storage, direction="maximize")
    study.set_user_attr("definition", "mine")


@pytest.mark.parametrize("make", [foreign_trials, foreign_direction, foreign_attributes])
def test_a_study_that_plain_optuna_made_is_refused(tmp_path: Path, make: Any) -> None:
    make(open_storage(url_in(tmp_path)))
    with pytest.raises(StorageError, match="not made by optlayers"):
        open_study(url_in(tmp_path), definition())


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_start_that_was_killed_half_way_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    done: list[str] = []

    def dying(name: str) -> Any:
        real = getattr(optuna.Study, name)

        def write(self: optuna.Study, *arguments: Any) -> None:
            if len(done) == writes:
                raise KeyboardInterrupt
            real(self, *arguments)
            done.append(name)

        return write

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "set_user_attr", dying("set_user_attr"))
        patch.setattr(optuna.Study, "set_metric_names", dying("set_metric_names"))
        with pytest.raises(KeyboardInterrupt):
            open_study(url_in(tmp_path), definition())
    open_study(url_in(tmp_path), definition())
    assert stored_definition(url_in(tmp_path), "replayed") == definition().to_dict()


def test_a_study_pickles_as_those_of_optuna_do(tmp_path: Path) -> None:
    definition_ = definition()
    sampler, pruner = PatternGASampler(n_layers=10), pruner_for(definition_, 8)
    study = open_study(url_in(tmp_path), definition_, sampler, pruner, say=lambda text: None)
    study.add_trial(optuna.create_trial(value=1.0))
    copy = pickle.loads(pickle.dumps(study))
    assert copy.study_name == study.study_name
    assert copy.trials == study.trials
    assert isinstance(copy._storage, RetryingStorage)
    assert (type(copy.sampler), type(copy.pruner)) == (type(sampler), type(pruner))
    copy.add_trial(optuna.create_trial(value=0.5))
    assert len(study.trials) == 2
    found = pickle.loads(pickle.dumps(SearchResult(definition_, study)))
    assert found.definition == definition_
    assert len(found.study.trials) == 2
