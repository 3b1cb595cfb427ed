"""What every `StudyStore` must do, whatever it writes to: the tests of a class to inherit from."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from optlayers.errors import StudyGoneError
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search import search_space
from optlayers.storage import tables
from optlayers.storage.connect import open_storage, open_study
from optlayers.storage.read import FastRDBStorage
from optlayers.storage.store import Change, NewTrial, StudyStore, store_of
from tests.helpers.replay import N_LAYERS, definition

RUNNING, FAIL = TrialState.RUNNING, TrialState.FAIL


def open_store(url: str, plain: bool, monkeypatch: pytest.MonkeyPatch) -> StudyStore:
    """The store of the replayed study; `plain`: as where Optuna is not as expected."""
    if plain:
        monkeypatch.setattr(tables, "difference", lambda: "moved")
    store = store_of(open_study(url, definition()))
    assert (type(store) is StudyStore) == plain
    return store


def new(layer: int, **attrs: Any) -> NewTrial:
    params = LayerSpace(N_LAYERS).params(LayerSet.of(layer))
    return NewTrial(params, search_space(LayerSpace(N_LAYERS)), {"layers": str(layer), **attrs})


# Every way in which a worker writes to its study.
WRITES: dict[str, Callable[[StudyStore], Any]] = {
    "claim": lambda store: store.insert_running([new(2)], unique="layers"),
    "rung": lambda store: store.swap_states([Change(0, RUNNING, RUNNING, {"x": 1})]),
    "end": lambda store: store.swap_states([Change(0, RUNNING, FAIL, requeue=new(1))]),
    "figures": lambda store: store.put_attrs({"a": 1}),
    "lease": lambda store: store.swap_attr("a", None, 1),
    "heartbeat": lambda store: store.beat([0]),
    "answers": lambda store: store.study.set_user_attr("a", 1),
    "trial": lambda store: store.study.ask(),
    "queue": lambda store: store.study.enqueue_trial({"layer_00": "donor"}),
}


def url_of(store: StudyStore) -> str:
    """The URL of a store's database."""
    url = store.storage.engine.url  # type: ignore[attr-defined]
    return str(url.render_as_string(hide_password=False))


class StorageSuite:
    """Its subclasses have a fixture `store`."""

    def test_trials_made_at_once_have_numbers_in_order_and_all_their_parts(
        self, store: StudyStore
    ) -> None:
        store.study.ask()
        wanted = [new(layer, size=1) for layer in (0, 1, 1, 2)]
        assert store.insert_running(wanted, unique="layers") == [1, 2, None, 3]
        assert store.insert_running([new(2), new(3)], unique="layers") == [None, 4]
        for trial, layer in zip(store.study.get_trials()[1:4], (0, 1, 2), strict=True):
            assert trial.state == RUNNING
            assert trial.params == LayerSpace(N_LAYERS).params(LayerSet.of(layer))
            assert trial.user_attrs == {"layers": str(layer), "size": 1}
            assert trial.datetime_start is not None

    def test_a_change_replaces_what_the_trial_has(self, store: StudyStore) -> None:
        trial = store.study.ask()
        trial.set_user_attr("questions", 10)
        trial.report(0.25, 10)
        for score in (0.1, 0.5):
            change = Change(0, RUNNING, RUNNING, {"questions": 20}, steps={20: score})
            assert store.swap_states([change]) == {0}
        assert store.study.trials[0].state == RUNNING
        change = Change(0, RUNNING, TrialState.COMPLETE, {"questions": 40}, value=0.75)
        assert store.swap_states([change]) == {0}
        [found] = store.study.trials
        assert found.state == TrialState.COMPLETE
        assert found.value == 0.75
        assert found.user_attrs == {"questions": 40}
        assert found.intermediate_values == {10: 0.25, 20: 0.5}
        assert found.datetime_start is not None
        assert found.datetime_complete is not None
        assert 0 <= (found.datetime_complete - found.datetime_start).total_seconds() < 60

    def test_a_change_from_another_state_writes_nothing_and_queues_nothing(
        self, store: StudyStore
    ) -> None:
        trials = [store.study.ask() for _ in range(2)]
        store.study.tell(trials[0], 0.5)
        changes = [
            Change(number, RUNNING, FAIL, {"reason": "late"}, requeue=new(1)) for number in (0, 1)
        ]
        assert store.swap_states(changes) == {1}
        assert store.swap_states([Change(1, TrialState.WAITING, FAIL)]) == set()
        states = [(t.number, t.state, t.user_attrs) for t in store.study.get_trials()]
        assert states == [
            (0, TrialState.COMPLETE, {}),
            (1, FAIL, {"reason": "late"}),
            (2, TrialState.WAITING, {"layers": "1"}),
        ]

    def test_a_waiting_trial_is_taken_once_or_failed(self, store: StudyStore) -> None:
        store.insert_running([new(1), new(2)], unique="layers")
        store.swap_states([Change(n, RUNNING, FAIL, requeue=new(n + 1)) for n in (0, 1)])
        take = Change(2, TrialState.WAITING, RUNNING, {"worker": "me"})
        assert store.swap_states([take]) == {2}
        assert store.swap_states([take]) == set()
        assert store.swap_states([Change(3, TrialState.WAITING, FAIL, {"reason": "twice"})]) == {3}
        taken, failed = store.study.get_trials()[2:]
        assert (taken.state, taken.user_attrs["worker"]) == (RUNNING, "me")
        assert (failed.state, failed.user_attrs["reason"]) == (FAIL, "twice")
        assert taken.datetime_start is not None

    def test_a_trial_that_another_program_queued_gets_all_its_parts(
        self, store: StudyStore
    ) -> None:
        store.study.enqueue_trial({"layer_03": "donor"}, user_attrs={"note": "mine", "size": 7})
        store.study.get_trials()
        take = Change(0, TrialState.WAITING, RUNNING, {"worker": "me"}, given=new(3, size=1))
        assert store.swap_states([take]) == {0}
        assert store.swap_states([take]) == set()
        [taken] = store.study.get_trials()
        assert (taken.state, taken.params) == (RUNNING, new(3).params)
        assert taken.distributions == new(3).distributions
        assert taken.user_attrs == {"note": "mine", "size": 1, "layers": "3", "worker": "me"}

    def test_a_value_of_any_length_is_kept(self, store: StudyStore) -> None:
        study = store.study
        long = [{"answers": letter * 70_000, "n": 1} for letter in 'a"']
        store.insert_running([new(0), new(1)], unique="layers")
        for value in long:
            assert store.swap_states([Change(0, RUNNING, RUNNING, {"x": value, "y": 1})]) == {0}
            study.set_user_attr("x", value)
        assert study.user_attrs["x"] == long[1]
        assert study.get_trials()[0].user_attrs == {"layers": "0", "x": long[1], "y": 1}
        assert store.swap_states([Change(0, RUNNING, FAIL)]) == {0}
        for deepcopy in (True, False):
            [first, _] = study.get_trials(deepcopy=deepcopy)
            assert first.user_attrs == {"layers": "0", "x": long[1], "y": 1}
        assert store.storage.get_trial(store.trial_id(0)).user_attrs["x"] == long[1]
        [summary] = store.storage.get_all_studies()
        assert summary.user_attrs["x"] == long[1]

    def test_attributes_of_a_study_are_set_and_swapped(self, store: StudyStore) -> None:
        store.put_attrs({"a": 1, "b": [2]})
        store.put_attrs({"a": {"x": None}})
        assert store.attrs().items() >= {"a": {"x": None}, "b": [2]}.items()
        assert store.swap_attr("c", None, {"n": 1})
        assert not store.swap_attr("c", None, {"n": 2})
        assert not store.swap_attr("c", {"n": 2}, {"n": 3})
        assert store.swap_attr("c", {"n": 1}, {"n": 4})
        assert store.attrs()["c"] == {"n": 4}

    def test_heartbeats_are_those_of_running_trials(self, store: StudyStore) -> None:
        store.insert_running([new(1), new(2), new(3)], unique="layers")
        store.swap_states([Change(1, RUNNING, FAIL)])
        store.beat([0, 1, 2])
        found = store.heartbeats()
        assert set(found) == {0, 2}
        assert all(abs(age) < 60 for _, age in found.values())


def check_gone(store: StudyStore, successor: bool) -> None:
    """Once the study is deleted nothing is written, nor to the next one, which may have its id."""
    store.insert_running([new(0)], unique="layers")
    optuna.delete_study(study_name="replayed", storage=open_storage(url_of(store)))
    other = store_of(open_study(url_of(store), definition())) if successor else None
    before = None if other is None else state_of(other)
    assert_gone(store)
    assert (None if other is None else state_of(other)) == before


def assert_gone(store: StudyStore) -> None:
    """Every write says in one line that the study is gone."""
    for write in WRITES.values():
        with pytest.raises(StudyGoneError, match="'replayed' is no longer in") as caught:
            write(store)
        assert "\n" not in str(caught.value)
    with pytest.raises(StudyGoneError):
        store.retry.verify()


def state_of(store: StudyStore) -> Any:
    return store.study.get_trials(), store.study.user_attrs, store.attrs()


def check_reading(store: StudyStore) -> None:
    """Trials are read as Optuna reads them."""
    study = store.study
    for end in (0.5, float("inf"), None):
        trial = study.ask(search_space(LayerSpace(N_LAYERS)))
        trial.suggest_float("rate", 1e-5, 1.0, log=True)
        trial.set_user_attr("words", ["ä", None, 1.5])
        store.storage.set_trial_system_attr(store.trial_id(trial.number), "key", {"a": 1})
        trial.report(float("nan"), 1)
        trial.report(0.25, 2)
        state = TrialState.COMPLETE if end is not None else TrialState.FAIL
        study.tell(trial, end, state=state)
    study.enqueue_trial(LayerSpace(N_LAYERS).params(LayerSet.of(3)))
    study.ask()
    study.enqueue_trial(LayerSpace(N_LAYERS).params(LayerSet.of(4)))
    backend = FastRDBStorage(url_of(store))
    theirs = functools.partial(RDBStorage._get_trials, backend)
    ids = [store.trial_id(number) for number in range(5)]
    for states in (None, (TrialState.FAIL, TrialState.WAITING)):
        for some, later in ((set[int](), -1), ({ids[0], ids[2]}, ids[3])):
            arguments = (store.study_id, states, some, later)
            assert repr(backend._get_trials(*arguments)) == repr(theirs(*arguments))
    with pytest.raises(KeyError):
        backend._get_trials(99, None, set(), -1)
