"""A study that was deleted, or whose file was removed or replaced, while it was in use."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from optlayers.errors import StudyGoneError
from optlayers.storage.connect import open_study
from optlayers.storage.guard import IDENTITY
from optlayers.storage.store import store_of
from tests.helpers.earlier import VERSIONS, unpack
from tests.helpers.replay import definition, study_in, url_in, worker_in
from tests.helpers.storage_suite import assert_gone, check_gone, new, open_store, state_of


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("successor", [False, True])
def test_nothing_is_written_once_the_study_is_deleted(
    tmp_path: Path, plain: bool, successor: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_gone(open_store(url_in(tmp_path), plain, monkeypatch), successor)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("optuna.db*") if path.is_file()]


def test_nothing_is_written_once_the_file_is_removed(tmp_path: Path) -> None:
    store = store_of(study_in(tmp_path))
    for path in files(tmp_path):
        path.unlink()
    assert_gone(store)
    # A connection of another thread would create the file anew.
    thread = threading.Thread(target=assert_gone, args=(store,))
    thread.start()
    thread.join()
    assert files(tmp_path) == []


@pytest.mark.parametrize("new", ["another study", "an older copy"])
def test_nothing_is_written_once_the_file_is_replaced(tmp_path: Path, new: str) -> None:
    (tmp_path / "kept").mkdir()
    store = store_of(study_in(tmp_path))
    for path in files(tmp_path):
        shutil.copy(path, tmp_path / "kept" / path.name)
        path.unlink()
    if new == "an older copy":
        for path in files(tmp_path / "kept"):
            shutil.copy(path, tmp_path / path.name)
    other = store_of(study_in(tmp_path))
    before = state_of(other)
    assert_gone(store)
    assert state_of(other) == before


def test_nothing_is_written_once_the_tables_are_dropped(tmp_path: Path) -> None:
    store = store_of(study_in(tmp_path))
    store.insert_running([new(0)], unique="layers")
    with sqlite3.connect(tmp_path / "optuna.db") as other:
        tables = other.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (name,) in tables:
            other.execute(f"DROP TABLE {name}")
    assert_gone(store)


def test_a_worker_whose_study_is_deleted_ends_with_that_reason(tmp_path: Path) -> None:
    worker = worker_in(tmp_path)
    evaluate = worker.evaluator.judge

    def then_delete(*arguments: object) -> object:
        for path in files(tmp_path):
            path.unlink()
        return evaluate(*arguments)  # type: ignore[arg-type]

    worker.evaluator.judge = then_delete  # type: ignore[method-assign, assignment]
    with pytest.raises(StudyGoneError):
        worker.run()
    assert files(tmp_path) == []


def test_a_program_may_change_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = store_of(open_study("sqlite:///optuna.db", definition()))
    monkeypatch.chdir("/")
    store.put_attrs({"a": 1})


def test_an_identity_is_given_once(tmp_path: Path) -> None:
    first, second = (store_of(study_in(tmp_path)).attrs()[IDENTITY] for _ in range(2))
    assert first == second


@pytest.mark.parametrize("version", VERSIONS)
def test_a_study_of_an_earlier_version_gets_an_identity_when_it_goes_on(
    tmp_path: Path, version: str
) -> None:
    earlier = unpack(version, "one", tmp_path)
    reader = store_of(open_study(earlier.url, earlier.definition, create=False))
    assert IDENTITY not in reader.attrs()
    first, second = (store_of(open_study(earlier.url, earlier.definition)) for _ in range(2))
    assert first.attrs()[IDENTITY] == second.attrs()[IDENTITY]
    reader.put_attrs({"figure": 1})  # it was opened before, and is not checked
    first.put_attrs({"figure": 2})
