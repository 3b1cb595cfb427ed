"""Trials written in one commit each: made with all there is to them, or brought to a new state.

Optuna's own calls read and then write, parameter by parameter and value by value, each a commit of
its own. Here the same rows of the same tables go in together: faster, never half written, and two
processes on SQLite cannot take one trial. The tables are Optuna's, as of the versions that
constraints.txt and pyproject.toml name.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb.models import (
    StudyModel,
    TrialHeartbeatModel,
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialUserAttributeModel,
    TrialValueModel,
)
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import TrialState
from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

_ACTIVE = (TrialState.RUNNING, TrialState.WAITING)


def insert_running(
    storage: BaseStorage,
    study_id: int,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    attrs: Mapping[str, Any],
    clash: Callable[[Mapping[str, Any]], bool],
) -> tuple[int, int] | None:
    """A new RUNNING trial with all there is to it and its first heartbeat, in one commit.

    Returns its id and its number; or None, and nothing is written, where the user attributes of
    a trial that is RUNNING or WAITING `clash`. Optuna's own call checks and inserts parameter by
    parameter, 2 to 3 ms each.
    """
    internal = {name: distributions[name].to_internal_repr(value) for name, value in params.items()}
    backend = storage._backend if isinstance(storage, _CachedStorage) else storage
    if not isinstance(backend, RDBStorage):
        others = storage.get_all_trials(study_id, deepcopy=False, states=_ACTIVE)
        if any(clash(other.user_attrs) for other in others):
            return None
        trial_id = storage.create_new_trial(study_id)
        for name, index in internal.items():
            storage.set_trial_param(trial_id, name, index, distributions[name])
        for key, item in attrs.items():
            storage.set_trial_user_attr(trial_id, key, item)
        return trial_id, storage.get_trial(trial_id).number
    with _create_scoped_session(backend.scoped_session) as session:
        # As Optuna does: the lock makes numbers, and the order of ids, those of the commits.
        # On SQLite it is the insertion that locks, so the others are looked at after it.
        StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
        trial = TrialModel(
            study_id=study_id, state=TrialState.RUNNING, datetime_start=datetime.datetime.now()
        )
        session.add(trial)
        session.flush()
        trial_id, number = int(trial.trial_id), int(trial.count_past_trials(session))
        trial.number = number
        if any(map(clash, _active_attrs(session, study_id, trial_id))):
            session.rollback()
            return None
        rows: list[dict[str, Any]] = [
            {
                "param_name": name,
                "param_value": index,
                "distribution_json": distribution_to_json(distributions[name]),
            }
            for name, index in internal.items()
        ]
        session.execute(insert(TrialParamModel), [{"trial_id": trial_id, **row} for row in rows])
        rows = [{"key": key, "value_json": json.dumps(item)} for key, item in attrs.items()]
        session.execute(
            insert(TrialUserAttributeModel), [{"trial_id": trial_id, **row} for row in rows]
        )
        session.add(TrialHeartbeatModel(trial_id=trial_id))
    return trial_id, number


def _active_attrs(session: Session, study_id: int, but: int) -> list[dict[str, Any]]:
    """The user attributes of every RUNNING or WAITING trial but one."""
    attr = TrialUserAttributeModel
    found: dict[int, dict[str, Any]] = {}
    rows = session.execute(
        select(attr.trial_id, attr.key, attr.value_json)
        .join(TrialModel, TrialModel.trial_id == attr.trial_id)
        .where(
            TrialModel.study_id == study_id,
            TrialModel.state.in_(_ACTIVE),
            TrialModel.trial_id != but,
        )
    )
    for trial_id, key, text in rows:
        found.setdefault(trial_id, {})[key] = json.loads(text)
    return list(found.values())


def swap_state(
    storage: BaseStorage,
    trial_id: int,
    old: TrialState,
    new: TrialState,
    attrs: Mapping[str, Any],
    value: float | None = None,
    steps: Mapping[int, float] | None = None,
) -> bool:
    """Bring a trial from state `old` to `new`, all in one commit.

    `attrs` are user attributes, `value` the score that it ends with, `steps` intermediate
    values; all go over what was there. False, and nothing is written, where the trial is not in
    `old`. Optuna's own calls read the state and then write, with a lock in between that SQLite
    does not have: there, two processes would take one trial. And each is a commit of its own.
    """
    backend = storage._backend if isinstance(storage, _CachedStorage) else storage
    if not isinstance(backend, RDBStorage):
        return _swap_plainly(storage, trial_id, old, new, attrs, value, steps)
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    changes: dict[Any, Any] = {TrialModel.state: new}
    if new.is_finished():
        changes[TrialModel._datetime_complete_utc] = now
    elif new != old:
        changes[TrialModel._datetime_start_utc] = now
    attr, step, end = TrialUserAttributeModel, TrialIntermediateValueModel, TrialValueModel
    with _create_scoped_session(backend.scoped_session) as session:
        swapped = session.execute(
            update(TrialModel)
            .where(TrialModel.trial_id == trial_id, TrialModel.state == old)
            .values(changes)
            .execution_options(synchronize_session=False)
        )
        if not isinstance(swapped, CursorResult) or swapped.rowcount != 1:
            return False

        def put(model: Any, key: Any, rows: dict[Any, dict[str, Any]]) -> None:
            if rows:
                old_rows = (model.trial_id == trial_id, key.in_(list(rows)))
                session.execute(delete(model).where(*old_rows))
                session.execute(insert(model), [{"trial_id": trial_id, **r} for r in rows.values()])

        put(attr, attr.key, {k: {"key": k, "value_json": json.dumps(v)} for k, v in attrs.items()})
        reached = {}
        for number, score in (steps or {}).items():
            stored, kind = step.intermediate_value_to_stored_repr(score)
            reached[number] = {
                "step": number,
                "intermediate_value": stored,
                "intermediate_value_type": kind,
            }
        put(step, step.step, reached)
        if value is not None:
            stored, ending = end.value_to_stored_repr(value)
            row = {"objective": 0, "value": stored, "value_type": ending}
            put(end, end.objective, {0: row})
    return True


def _swap_plainly(
    storage: BaseStorage,
    trial_id: int,
    old: TrialState,
    new: TrialState,
    attrs: Mapping[str, Any],
    value: float | None,
    steps: Mapping[int, float] | None,
) -> bool:
    """`swap_state` by Optuna's own calls, for a storage that is no relational database."""
    if storage.get_trial(trial_id).state != old:
        return False
    for key, item in attrs.items():
        storage.set_trial_user_attr(trial_id, key, item)
    for number, score in (steps or {}).items():
        storage.set_trial_intermediate_value(trial_id, number, score)
    if new == old:
        return True
    return storage.set_trial_state_values(trial_id, new, None if value is None else [value])
