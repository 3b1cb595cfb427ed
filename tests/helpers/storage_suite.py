"""What every storage must do: a tier makes subclasses with a fixture `study` on its databases."""

from __future__ import annotations

import functools
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search import search_space
from optlayers.storage import transactions
from optlayers.storage.read import QuickStorage
from optlayers.storage.transactions import Change, NewTrial, backend_of, insert_running, swap_states
from tests.helpers.replay import N_LAYERS


def same_layers(mine: Any, other: Any) -> bool:
    return bool(mine["layers"] == other.get("layers"))


def swap(study: optuna.Study, *changes: Change) -> list[bool]:
    return swap_states(study._storage, study._study_id, changes, search_space(LayerSpace(N_LAYERS)))


class StorageSuite:
    """States of trials, swapped and inserted, on every storage that Optuna has."""

    def test_a_swap_writes_everything_over_what_was_there(self, study: optuna.Study) -> None:
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
        assert swap(study, Change(number, running, complete, {"questions": 40}, value=0.75)) == [
            True
        ]
        [found] = study.trials
        assert found.state == complete
        assert found.value == 0.75
        assert found.user_attrs == {"questions": 40}
        assert found.intermediate_values == {10: 0.25, 20: 0.5}
        assert found.datetime_start is not None
        assert found.datetime_complete is not None
        assert 0 <= (found.datetime_complete - found.datetime_start).total_seconds() < 60

    def test_a_swap_from_another_state_writes_nothing_and_queues_nothing(
        self, study: optuna.Study
    ) -> None:
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
        self,
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


class DatabaseSuite(StorageSuite):
    """The same on relational databases, and what is read and written there at once."""

    def test_a_claim_that_is_tried_again_is_the_one_that_was_made(
        self, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wanted = [NewTrial(LayerSet.of(i).to_params(N_LAYERS), {"layers": str(i)}) for i in (0, 1)]
        results = []

        def twice(storage: Any, write: Any) -> Any:
            """The connection breaks after the commit, so the call is made again."""
            results.append(write())
            return write()

        monkeypatch.setattr(transactions, "patiently", twice)
        made = transactions.insert_running(
            study._storage,
            study._study_id,
            wanted,
            search_space(LayerSpace(N_LAYERS)),
            same_layers,
            same_layers,
        )
        assert made == results[0]
        assert None not in made
        assert len(study.trials) == 2

    def test_trials_are_read_as_optuna_reads_them(self, study: optuna.Study) -> None:
        backend = backend_of(study._storage)
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
