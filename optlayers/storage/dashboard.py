"""What optuna-dashboard keeps with a study (notes and figures), written in one commit.

Its own functions set one attribute after another, each in a commit; a study has thousands. They
are called here with a stand-in for the storage that collects the attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import optuna

from optlayers.storage.store import StudyStore, store_of


class _Collector:
    """A stand-in for a storage: keeps the attributes that are set."""

    def __init__(self, present: Mapping[str, Any]) -> None:
        self.present = dict(present)
        self.attrs: dict[str, Any] = {}

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self.attrs[key] = value

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self.present


def has_note(store: StudyStore, attrs: Mapping[str, Any], number: int) -> bool:
    """Whether a trial has a note, by the system attributes of its study."""
    return f"dashboard:{store.trial_id(number)}:note_ver" in attrs


def save_trial_notes(study: optuna.Study, notes: Mapping[int, str]) -> None:
    """Write notes (Markdown) of trials that have none, by trial number."""
    from optuna_dashboard import save_note

    store, collector = store_of(study), _Collector({})
    for number, text in notes.items():
        trial: Any = SimpleNamespace(
            storage=collector, study=study, _trial_id=store.trial_id(number)
        )
        save_note(trial, text)
    store.put_attrs(collector.attrs)


def save_figures(study: optuna.Study, figures: Mapping[str, Any]) -> None:
    """Write figures of plotly by their ids, in place of those with the same id."""
    from optuna_dashboard import save_plotly_graph_object

    store = store_of(study)
    collector = _Collector({k: v for k, v in store.attrs().items() if "plot_data" in k})
    target: Any = SimpleNamespace(_storage=collector, _study_id=store.study_id)
    for name, figure in figures.items():
        save_plotly_graph_object(target, figure, graph_object_id=name)
    store.put_attrs(collector.attrs)
