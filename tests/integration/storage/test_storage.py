"""The storage on real SQLite files: its errors in one line, its pragmas, whose study it is."""

from __future__ import annotations

import functools
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import TrialState
from sqlalchemy import text

from benchmarks.lib.forked_worker import CONTEXT
from optlayers.config.study import StudyDefinition, parse_study
from optlayers.errors import MissingStudyError, StorageError
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search import search_space
from optlayers.storage import transactions
from optlayers.storage.connect import (
    FINGERPRINT,
    open_storage,
    open_study,
    storage_errors,
    stored_definition,
)
from optlayers.storage.read import QuickStorage
from optlayers.storage.transactions import Change, NewTrial, backend_of, insert_running, swap_states
from tests.helpers.replay import N_LAYERS, STUDY, definition, url_in


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


def test_an_error_of_the_driver_is_one_line_without_the_password() -> None:
    def fail() -> None:
        with storage_errors("postgresql://me:s3cret@host/db"):
            cause = ValueError("cannot reach postgresql://me:s3cret@host/db\nmore lines")
            raise optuna.exceptions.StorageInternalError("internal") from cause

    with pytest.raises(StorageError) as caught:
        fail()
    assert "s3cret" not in str(caught.value)
    assert "cannot reach" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", ["nonsense", "not a database URL", "sqlite:///optuna.db"]),
        ("", ["not a database URL"]),
        ("postgresql://me:s3cret@host:port/db", ["***", "not a database URL"]),
        ("wonder://me:s3cret@host/db", ["***", "wonder", "mend"]),
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
def test_a_url_that_cannot_serve_is_one_line_with_the_mend(url: str, words: list[str]) -> None:
    line = message_of(url)
    assert "s3cret" not in line
    for word in words:
        assert word in line


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    line = message_of(f"sqlite:///{tmp_path}/none/optuna.db")
    assert f"{tmp_path}/none" in line
    assert "make it" in line


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


def test_a_database_that_goes_away_is_one_line(tmp_path: Path) -> None:
    study = open_study(url_in(tmp_path), definition())
    with sqlite3.connect(tmp_path / "optuna.db") as other:
        other.execute("DROP TABLE study_user_attributes")
    with (
        pytest.raises(StorageError, match=r"no such table.*check that") as caught,
        storage_errors(url_in(tmp_path)),
    ):
        _ = study.user_attrs
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------ connections


def test_every_connection_writes_ahead_and_waits_for_others(tmp_path: Path) -> None:
    storage = open_storage(url_in(tmp_path))
    assert isinstance(storage, _CachedStorage)
    engine = storage._backend.engine
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
    assert line.endswith("; mend it")


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


def create_often(folder: str, barrier: Any, failures: Any) -> None:
    for number in range(6):
        barrier.wait(60)
        try:
            open_study(f"sqlite:///{folder}/{number}.db", definition())
        except BaseException as error:
            failures.put(repr(error))


def test_processes_that_create_the_study_at_once_all_get_it(tmp_path: Path) -> None:
    barrier, failures = CONTEXT.Barrier(3), CONTEXT.Queue()
    arguments = (str(tmp_path), barrier, failures)
    processes = [CONTEXT.Process(target=create_often, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(180)
        assert process.exitcode == 0
    assert failures.empty(), failures.get()
    for number in range(6):
        url = f"sqlite:///{tmp_path}/{number}.db"
        assert stored_definition(url, "replayed") == definition().to_dict()


# ------------------------------------------------------------------ swapping states


def opened(kind: str, request: pytest.FixtureRequest, folder: Path) -> optuna.Study:
    if kind == "memory":
        return optuna.create_study(direction="maximize")
    url = url_in(folder) if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    return open_study(url, definition())


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def relational(request: pytest.FixtureRequest, tmp_path: Path) -> optuna.Study:
    return opened(request.param, request, tmp_path)


@pytest.fixture(params=["sqlite", "postgresql", "mysql", "memory"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> optuna.Study:
    return opened(request.param, request, tmp_path)


def same_layers(mine: Any, other: Any) -> bool:
    return bool(mine["layers"] == other.get("layers"))


def swap(study: optuna.Study, *changes: Change) -> list[bool]:
    return swap_states(study._storage, study._study_id, changes, search_space(LayerSpace(N_LAYERS)))


def test_a_swap_writes_everything_over_what_was_there(study: optuna.Study) -> None:
    trial = study.ask()
    trial.set_user_attr("questions", 10)
    trial.report(0.25, 10)
    running, complete = TrialState.RUNNING, TrialState.COMPLETE
    number = trial._trial_id
    for score in (0.1, 0.5):
        assert swap(
            study, Change(number, running, running, {"questions": 20}, steps={20: score})
        ) == [True]
    assert study.trials[0].state == running
    assert swap(study, Change(number, running, complete, {"questions": 40}, value=0.75)) == [True]
    [found] = study.trials
    assert found.state == complete
    assert found.value == 0.75
    assert found.user_attrs == {"questions": 40}
    assert found.intermediate_values == {10: 0.25, 20: 0.5}
    assert found.datetime_start is not None
    assert found.datetime_complete is not None
    assert 0 <= (found.datetime_complete - found.datetime_start).total_seconds() < 60


def test_a_swap_from_another_state_writes_nothing_and_queues_nothing(study: optuna.Study) -> None:
    trials = [study.ask() for _ in range(2)]
    study.tell(trials[0], 0.5)
    fail, again = TrialState.FAIL, NewTrial(LayerSet.of(1).to_params(N_LAYERS), {"layers": "1"})
    changes = [
        Change(trial._trial_id, TrialState.RUNNING, fail, {"reason": "late"}, again=again)
        for trial in trials
    ]
    assert swap(study, *changes) == [False, True]
    assert swap(study, Change(trials[1]._trial_id, TrialState.WAITING, fail)) == [False]
    states = [(t.number, t.state, t.user_attrs) for t in study.get_trials()]
    assert states == [
        (0, TrialState.COMPLETE, {}),
        (1, TrialState.FAIL, {"reason": "late"}),
        (2, TrialState.WAITING, {"layers": "1"}),
    ]


def test_trials_made_at_once_have_numbers_in_order_and_all_their_parts(
    study: optuna.Study,
) -> None:
    study.ask()
    wanted = [
        NewTrial(LayerSet.of(i).to_params(N_LAYERS), {"layers": str(i), "size": 1})
        for i in (0, 1, 1, 2)
    ]
    space, again = search_space(LayerSpace(N_LAYERS)), lambda mine, other: False
    made = insert_running(study._storage, study._study_id, wanted, space, same_layers, again)
    assert [m and m[1] for m in made] == [1, 2, None, 3]
    for trial, layers in zip(study.get_trials()[1:], (0, 1, 2), strict=True):
        assert trial.state == TrialState.RUNNING
        assert trial.params == LayerSet.of(layers).to_params(N_LAYERS)
        assert trial.user_attrs == {"layers": str(layers), "size": 1}


def test_a_claim_that_is_tried_again_is_the_one_that_was_made(
    relational: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [NewTrial(LayerSet.of(i).to_params(N_LAYERS), {"layers": str(i)}) for i in (0, 1)]
    results = []

    def twice(storage: Any, write: Any) -> Any:
        """The connection breaks after the commit, so the call is made again."""
        results.append(write())
        return write()

    monkeypatch.setattr(transactions, "patiently", twice)
    made = transactions.insert_running(
        relational._storage,
        relational._study_id,
        wanted,
        search_space(LayerSpace(N_LAYERS)),
        same_layers,
        same_layers,
    )
    assert made == results[0]
    assert None not in made
    assert len(relational.trials) == 2


def test_trials_are_read_as_optuna_reads_them(relational: optuna.Study) -> None:
    study, backend = relational, backend_of(relational._storage)
    assert isinstance(backend, QuickStorage)
    for end in (0.5, float("inf"), None):
        trial = study.ask(search_space(LayerSpace(N_LAYERS)))
        trial.suggest_float("rate", 1e-5, 1.0, log=True)
        trial.set_user_attr("words", ["ä", None, 1.5])
        study._storage.set_trial_system_attr(trial._trial_id, "key", {"a": 1})
        trial.report(float("nan"), 1)
        trial.report(0.25, 2)
        state = TrialState.COMPLETE if end is not None else TrialState.FAIL
        study.tell(trial, end, state=state)
    study.enqueue_trial(LayerSet.of(3).to_params(N_LAYERS))
    study.ask()
    mine = backend._get_trials(study._study_id, None, set(), -1)
    theirs = optuna.storages.RDBStorage._get_trials(backend, study._study_id, None, set(), -1)
    assert repr(mine) == repr(theirs)
    some = {mine[0]._trial_id, mine[2]._trial_id}
    later, failed = mine[3]._trial_id, (TrialState.FAIL, TrialState.WAITING)
    for states in (None, failed):
        found = [
            [t.number for t in read(study._study_id, states, some, later)]
            for read in (
                backend._get_trials,
                functools.partial(optuna.storages.RDBStorage._get_trials, backend),
            )
        ]
        assert found[0] == found[1]
