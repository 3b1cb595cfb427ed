"""The figures that optuna-dashboard keeps with a study, written in one commit.

Its own function sets one attribute after another, each in a commit; figures have dozens. It is
called here with a stand-in for the storage that collects the attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import optuna

from optlayers.storage.store import store_of


class _Collector:
    """A stand-in for a storage: keeps the attributes that are set."""

    def __init__(self, present: Mapping[str, Any]) -> None:
        self.present = dict(present)
        self.attrs: dict[str, Any] = {}

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self.attrs[key] = value

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self.present


def save_figures(study: optuna.Study, figures: Mapping[str, Any]) -> None:
    """Write figures of plotly by their ids, in place of those with the same id."""
    from optuna_dashboard import save_plotly_graph_object

    store = store_of(study)
    collector = _Collector({k: v for k, v in store.attrs().items() if "plot_data" in k})
    target: Any = SimpleNamespace(_storage=collector, _study_id=store.study_id)
    for name, figure in figures.items():
        save_plotly_graph_object(target, figure, graph_object_id=name)
    store.put_attrs(collector.attrs)
