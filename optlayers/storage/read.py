"""QuickStorage: Optuna's relational storage, with its trials read as plain rows.

Optuna builds an object for every parameter of every trial and parses its distribution twice; with
32 parameters a trial that is most of the time that a worker spends on its database. Here a text
that was parsed once is known. The trials that come out are equal.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Container, Iterable, Iterator
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import (
    StudyModel,
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialSystemAttributeModel,
    TrialUserAttributeModel,
    TrialValueModel,
)
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, or_, select

from optlayers.trials import keys

# Below what any database takes as parameters of one statement.
_CHUNK = 500


class QuickStorage(RDBStorage):
    """An `RDBStorage` that reads trials with few statements and no objects in between.

    A trial that has the attribute `layers` was made with all its parameters: while it runs, they
    are read once, however often the trial is.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._whole: dict[int, dict[str, Any]] = {}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._whole = {}

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        known = sorted(i for i in included_trial_ids if i <= trial_id_greater_than)
        # Tables and a connection, not the classes and the session: half the time of a statement.
        table = TrialModel.__table__.c
        later = table.trial_id > trial_id_greater_than
        columns = (table.trial_id, table.number, table.state, table.datetime_start)
        wanted = select(*columns, table.datetime_complete).where(table.study_id == study_id)
        if states is not None:
            wanted = wanted.where(table.state.in_([s for s in TrialState if s in states]))
        with _create_scoped_session(self.scoped_session) as session:
            connection = session.connection()
            # States first: what belongs to a finished trial was all there before its state.
            trials = {
                row[0]: row
                for part in _parts(known)
                for row in connection.execute(wanted.where(or_(later, table.trial_id.in_(part))))
            }
            if not trials:
                # So that a study which is not there is told from one without trials.
                StudyModel.find_or_raise_by_id(study_id, session)
            ended = any(row.state.is_finished() for row in trials.values())
            belongings = _belongings(connection, sorted(trials), dict(self._whole), ended)
        for trial_id, (params, user_attrs, *_) in belongings.items():
            if trials[trial_id].state.is_finished():
                self._whole.pop(trial_id, None)
            elif keys.LAYERS in user_attrs:
                self._whole[trial_id] = params
        return [_frozen(trials[i], *found) for i, found in belongings.items()]


def _parts(ids: list[int]) -> Iterator[list[int]]:
    """The ids in parts of at most `_CHUNK`; at least one part."""
    for start in range(0, max(1, len(ids)), _CHUNK):
        yield ids[start : start + _CHUNK]


Belongings = tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any], dict[int, Any]]


def _belongings(
    connection: Connection, ids: list[int], whole: dict[int, dict[str, Any]], ended: bool
) -> dict[int, Belongings]:
    """Of each trial: parameters and distributions as one, attributes, values, steps.

    `whole` holds parameters that are known; only trials that have `ended` have values.
    """
    found: dict[int, Belongings] = {i: (whole.get(i, {}), {}, {}, {}, {}) for i in ids}
    if not ids:
        return found
    param, value, step = TrialParamModel, TrialValueModel, TrialIntermediateValueModel
    for part in _parts(ids):
        new = [i for i in part if i not in whole]
        for trial_id, name, number, text in _of(
            connection, new, param, "param_name", "param_value", "distribution_json"
        ):
            found[trial_id][0][name] = _parameter(text, number)
        for place, attr in ((1, TrialUserAttributeModel), (2, TrialSystemAttributeModel)):
            for trial_id, key, text in _of(connection, part, attr, "key", "value_json"):
                found[trial_id][place][key] = json.loads(text)
        for trial_id, objective, number, kind in _of(
            connection, part if ended else [], value, "objective", "value", "value_type"
        ):
            found[trial_id][3][objective] = value.stored_repr_to_value(number, kind)
        for trial_id, where, number, kind in _of(
            connection, part, step, "step", "intermediate_value", "intermediate_value_type"
        ):
            found[trial_id][4][where] = step.stored_repr_to_intermediate_value(number, kind)
    return found


def _of(connection: Connection, ids: list[int], model: Any, *columns: str) -> Iterable[Any]:
    """Rows of those trials, in the order in which they were written."""
    if not ids:
        return ()
    table = model.__table__
    wanted = select(table.c.trial_id, *(table.c[name] for name in columns))
    wanted = wanted.where(table.c.trial_id.in_(ids)).order_by(*table.primary_key.columns)
    return connection.execute(wanted)


@functools.cache
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


@functools.lru_cache(maxsize=10_000)
def _parameter(text: str, number: float) -> tuple[Any, BaseDistribution]:
    distribution = _distribution(text)
    return distribution.to_external_repr(number), distribution


def _local(stored: datetime.datetime | None) -> datetime.datetime | None:
    """A stored time (UTC) as Optuna gives it: local, without a zone."""
    if stored is None:
        return None
    return stored.replace(tzinfo=datetime.UTC).astimezone().replace(tzinfo=None)


def _frozen(
    row: Any,
    params: dict[str, Any],
    user_attrs: dict[str, Any],
    system_attrs: dict[str, Any],
    values: dict[Any, Any],
    steps: dict[int, Any],
) -> FrozenTrial:
    trial_id, number, state, begun, ended = row
    return FrozenTrial(
        number=number,
        state=state,
        value=None,
        values=[values[objective] for objective in sorted(values)] if values else None,
        datetime_start=_local(begun),
        datetime_complete=_local(ended),
        params={name: value for name, (value, _) in params.items()},
        distributions={name: distribution for name, (_, distribution) in params.items()},
        user_attrs=user_attrs,
        system_attrs=system_attrs,
        intermediate_values=steps,
        trial_id=trial_id,
    )
