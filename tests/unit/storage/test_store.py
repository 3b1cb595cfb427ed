"""The stores on SQLite files and in memory, and what decides between them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.storages._rdb import models

from optlayers.storage import tables
from optlayers.storage.connect import open_study
from optlayers.storage.dashboard import save_figures
from optlayers.storage.fast import FastStore
from optlayers.storage.retry import RetryPolicy
from optlayers.storage.store import StudyStore, store_of
from tests.helpers.replay import definition, study_in, url_in
from tests.helpers.storage_suite import StorageSuite, check_reading, new, open_store


class TestStores(StorageSuite):
    @pytest.fixture(params=["fast", "plain", "memory"])
    def store(
        self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> StudyStore:
        if request.param == "memory":
            return store_of(optuna.create_study(direction="maximize"))
        return open_store(url_in(tmp_path), request.param == "plain", monkeypatch)


# ------------------------------------------------------------------ which store


def other_schema(patch: pytest.MonkeyPatch) -> str:
    patch.setattr(models, "SCHEMA_VERSION", 13)
    return "its schema is 13, not 12"


def other_columns(patch: pytest.MonkeyPatch) -> str:
    patch.setitem(tables.COLUMNS, "trials", "trial_id number study_id state")
    return "its table trials has the columns trial_id, number"


def missing_table(patch: pytest.MonkeyPatch) -> str:
    patch.setitem(tables.COLUMNS, "trial_wishes", "trial_id wish")
    return "it has no table 'trial_wishes'"


def moved_module(patch: pytest.MonkeyPatch) -> str:
    patch.setitem(sys.modules, "optuna.storages._rdb.models", None)
    return "optuna.storages._rdb.models"


def moved_function(patch: pytest.MonkeyPatch) -> str:
    patch.delattr(models.TrialValueModel, "value_to_stored_repr")
    return "value_to_stored_repr"


def moved_method(patch: pytest.MonkeyPatch) -> str:
    patch.delattr(RDBStorage, "_get_trials")
    return "_get_trials"


def other_parameters(patch: pytest.MonkeyPatch) -> str:
    patch.setattr(tables, "GET_TRIALS", ["self", "study_id"])
    return "_get_trials has other parameters"


@pytest.mark.parametrize(
    "move",
    [
        other_schema,
        other_columns,
        missing_table,
        moved_module,
        moved_function,
        moved_method,
        other_parameters,
    ],
)
def test_another_optuna_is_used_by_its_public_calls_and_one_line_says_so(
    move: Callable[[pytest.MonkeyPatch], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    study = study_in(tmp_path)
    with monkeypatch.context() as patch:
        words = move(patch)
        found = tables.difference()
    assert words in found
    monkeypatch.setattr(tables, "difference", lambda: found)
    study = open_study(url_in(tmp_path), definition(), say=said.append)
    assert type(store_of(study)) is StudyStore
    [line] = said
    assert line.startswith(f"Optuna {optuna.__version__} is not as expected ({found}): its public")
    assert "slower" in line
    assert "\n" not in line


# ------------------------------------------------------------------ the fast store


def test_trials_that_a_broken_connection_has_made_are_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(study_in(tmp_path))
    results = []

    def twice(self: RetryPolicy, write: Callable[[], Any], **_: Any) -> Any:
        """The connection breaks after the commit, so the call is made again."""
        results.append(write())
        return write()

    wanted = [new(layer, worker="me") for layer in (0, 1)]
    with monkeypatch.context() as patch:
        patch.setattr(RetryPolicy, "call", twice)
        assert store.insert_running(wanted, unique="layers") == [0, 1] == results[0]
        assert store.swap_attr("key", None, 1)
    assert len(store.study.trials) == 2


def test_trials_are_read_as_optuna_reads_them(tmp_path: Path) -> None:
    store = store_of(study_in(tmp_path))
    assert isinstance(store, FastStore)
    check_reading(store)


# ------------------------------------------------------------------ the dashboard


def test_figures_in_one_commit_are_those_that_the_dashboard_writes(tmp_path: Path) -> None:
    import optuna_dashboard
    import plotly.graph_objects as go

    figure = go.Figure(go.Scatter(y=list(range(2000))))
    written = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        study = study_in(tmp_path / name)
        if name == "one":
            optuna_dashboard.save_plotly_graph_object(study, figure, graph_object_id="mine")
        else:
            save_figures(study, {"mine": figure})
        attrs = store_of(study).attrs()
        written.append({k: v for k, v in attrs.items() if k.startswith("dashboard:")})
    assert len(written[0]) > 1
    assert written[0] == written[1]
