"""Trials written together in one commit: made with all there is to them, or brought to a new state.

Optuna's own calls read and then write, parameter by parameter and value by value, each a commit of
its own. Here the same rows of the same tables go in together, for a whole cohort: faster, never
half written, and two processes cannot take one trial, on SQLite, PostgreSQL, MySQL and MariaDB. The
tables are Optuna's, as of the versions that constraints.txt and pyproject.toml name. A storage
that is no relational database is written by Optuna's own calls.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb.models import (
    StudyModel,
    StudySystemAttributeModel,
    TrialHeartbeatModel,
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialUserAttributeModel,
    TrialValueModel,
)
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import TrialState, create_trial
from sqlalchemy import bindparam, delete, func, insert, select, update
from sqlalchemy.orm import Session

from optlayers.storage.retry import patiently

ACTIVE = (TrialState.RUNNING, TrialState.WAITING)

Attrs = Mapping[str, Any]
Space = Mapping[str, BaseDistribution]


@dataclass(frozen=True)
class NewTrial:
    """A trial to be: its parameters and user attributes."""

    params: Mapping[str, Any]
    attrs: Attrs


@dataclass(frozen=True)
class Change:
    """A trial brought from state `old` to `new`, where it is in `old`.

    `attrs` are user attributes, `value` the score that it ends with, `steps` intermediate values;
    all go over what was there. `again` is a trial that is queued in the same commit.
    """

    trial_id: int
    old: TrialState
    new: TrialState
    attrs: Attrs = field(default_factory=dict)
    value: float | None = None
    steps: Mapping[int, float] = field(default_factory=dict)
    again: NewTrial | None = None


def backend_of(storage: BaseStorage) -> RDBStorage | None:
    """The relational database under a storage, or None."""
    backend = storage._backend if isinstance(storage, _CachedStorage) else storage
    return backend if isinstance(backend, RDBStorage) else None


# ------------------------------------------------------------------ making trials


def insert_running(
    storage: BaseStorage,
    study_id: int,
    wanted: Sequence[NewTrial],
    space: Space,
    clash: Callable[[Attrs, Attrs], bool],
    same: Callable[[Attrs, Attrs], bool] = lambda mine, other: False,
) -> list[tuple[int, int] | None]:
    """New RUNNING trials, each with all there is to it and its first heartbeat, in one commit.

    Returns id and number of each; None for one whose attributes `clash` with those of a trial
    that is RUNNING or WAITING, or of one before it in `wanted`. Where the connection broke off in
    an earlier try, a trial that is the `same` was made by it, and is the one.
    """
    backend = backend_of(storage)
    if backend is None:
        return [_insert_plainly(storage, study_id, new, space, clash) for new in wanted]
    tries = 0

    def write() -> list[tuple[int, int] | None]:
        nonlocal tries
        tries += 1
        with _create_scoped_session(backend.scoped_session) as session:
            count = _lock(session, study_id)
            active = _active(session, study_id)
            taken: list[Attrs] = [attrs for _, _, attrs in active]
            found: list[tuple[int, int] | None] = []
            chosen: list[NewTrial] = []
            for new in wanted:
                earlier = [a for a in active if tries > 1 and same(new.attrs, a[2])]
                if earlier:
                    found.append(earlier[0][:2])
                elif any(clash(new.attrs, attrs) for attrs in taken):
                    found.append(None)
                else:
                    found.append((-1 - len(chosen), 0))
                    chosen.append(new)
                    taken.append(new.attrs)
            made = _insert(session, study_id, TrialState.RUNNING, chosen, space, count)
            _put(session, TrialHeartbeatModel, [{"trial_id": trial_id} for trial_id, _ in made])
        return [f if f is None or f[0] >= 0 else made[-1 - f[0]] for f in found]

    return patiently(storage, write) if wanted else []


def _lock(session: Session, study_id: int) -> int:
    """Keep others from making trials of the study until the commit; its number of trials.

    As Optuna does: the lock makes numbers, and the order of ids, those of the commits.
    """
    if session.get_bind().dialect.name == "sqlite":
        # It knows no row locks. A write before the first look keeps the whole database.
        mine = StudyModel.study_id == study_id
        session.execute(update(StudyModel).where(mine).values(study_name=StudyModel.study_name))
    StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
    counted = select(func.count()).where(TrialModel.study_id == study_id)
    return int(session.execute(counted).scalar_one())


def _active(session: Session, study_id: int) -> list[tuple[int, int, dict[str, Any]]]:
    """Id, number and user attributes of every RUNNING or WAITING trial."""
    attr = TrialUserAttributeModel
    found: dict[int, tuple[int, int, dict[str, Any]]] = {}
    rows = session.execute(
        select(TrialModel.trial_id, TrialModel.number, attr.key, attr.value_json)
        .join(attr, TrialModel.trial_id == attr.trial_id)
        .where(TrialModel.study_id == study_id, TrialModel.state.in_(ACTIVE))
    )
    for trial_id, number, key, text in rows:
        found.setdefault(trial_id, (trial_id, number, {}))[2][key] = json.loads(text)
    return list(found.values())


def _insert(
    session: Session,
    study_id: int,
    state: TrialState,
    wanted: Sequence[NewTrial],
    space: Space,
    count: int,
) -> list[tuple[int, int]]:
    """The rows of new trials in a study that is locked and has `count` trials."""
    begun = datetime.datetime.now() if state == TrialState.RUNNING else None
    trials = [
        TrialModel(study_id=study_id, state=state, number=count + i, datetime_start=begun)
        for i in range(len(wanted))
    ]
    session.add_all(trials)
    session.flush()
    params: list[dict[str, Any]] = []
    attrs: list[dict[str, Any]] = []
    for trial, new in zip(trials, wanted, strict=True):
        for name, value in new.params.items():
            params.append(
                {
                    "trial_id": trial.trial_id,
                    "param_name": name,
                    "param_value": space[name].to_internal_repr(value),
                    "distribution_json": _as_json(space[name]),
                }
            )
        for key, item in new.attrs.items():
            row = {"trial_id": trial.trial_id, "key": key, "value_json": json.dumps(item)}
            attrs.append(row)
    _put(session, TrialParamModel, params)
    _put(session, TrialUserAttributeModel, attrs)
    return [(int(trial.trial_id), int(trial.number)) for trial in trials]


def _put(session: Session, model: Any, rows: list[dict[str, Any]]) -> None:
    """Insert rows in one go."""
    if rows:
        session.connection().execute(insert(model.__table__), rows)


@functools.cache
def _as_json(distribution: BaseDistribution) -> str:
    return distribution_to_json(distribution)


def _insert_plainly(
    storage: BaseStorage,
    study_id: int,
    new: NewTrial,
    space: Space,
    clash: Callable[[Attrs, Attrs], bool],
) -> tuple[int, int] | None:
    """One trial of `insert_running` by Optuna's own calls; others may come in between."""
    others = storage.get_all_trials(study_id, deepcopy=False, states=ACTIVE)
    if any(clash(new.attrs, other.user_attrs) for other in others):
        return None
    template = create_trial(
        state=TrialState.RUNNING,
        params=dict(new.params),
        distributions=dict(space),
        user_attrs=dict(new.attrs),
    )
    trial_id = storage.create_new_trial(study_id, template_trial=template)
    return trial_id, storage.get_trial(trial_id).number


# ------------------------------------------------------------------ changing trials


def swap_states(
    storage: BaseStorage, study_id: int, changes: Sequence[Change], space: Space
) -> list[bool]:
    """Bring trials to new states, all in one commit; whether each was in its old state.

    Nothing is written of a trial that was not. Optuna's own calls read the state and then write,
    with a lock in between that SQLite does not have: there, two processes would take one trial.
    """
    backend = backend_of(storage)
    if backend is None:
        return [_swap_plainly(storage, study_id, change, space) for change in changes]

    def write() -> list[bool]:
        with _create_scoped_session(backend.scoped_session) as session:
            # Before any lock of a trial, so that no two wait for each other.
            count = _lock(session, study_id) if any(c.again for c in changes) else 0
            done = {c.trial_id: c for c in sorted(changes, key=_by_id) if _swap_one(session, c)}
            _write_over(session, done.values())
            again = [c.again for c in done.values() if c.again is not None]
            _insert(session, study_id, TrialState.WAITING, again, space, count)
        return [done.get(c.trial_id) is c for c in changes]

    return patiently(storage, write) if changes else []


def _by_id(change: Change) -> int:
    return change.trial_id


def _swap_one(session: Session, change: Change) -> bool:
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    table = TrialModel.__table__
    values: dict[str, Any] = {"state": change.new}
    if change.new.is_finished():
        values["datetime_complete"] = now
    elif change.new != change.old:
        values["datetime_start"] = now
    mine = (table.c.trial_id == change.trial_id, table.c.state == change.old)
    if change.new == change.old:
        # MySQL counts the rows that changed, so a state put over itself would not count.
        locked = select(table.c.trial_id).where(*mine).with_for_update()
        return session.connection().execute(locked).first() is not None
    swapped = session.connection().execute(update(table).where(*mine).values(values))
    return swapped.rowcount == 1


def _write_over(session: Session, changes: Iterable[Change]) -> None:
    """Attributes, steps and values of the trials, in place of what was there."""
    attr, step, end = TrialUserAttributeModel, TrialIntermediateValueModel, TrialValueModel
    attrs: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    ends: list[dict[str, Any]] = []
    beats: list[dict[str, Any]] = []
    for change in changes:
        mine = {"trial_id": change.trial_id}
        for key, item in change.attrs.items():
            attrs.append({**mine, "key": key, "value_json": json.dumps(item)})
        for number, score in change.steps.items():
            stored, kind = step.intermediate_value_to_stored_repr(score)
            row = {"intermediate_value": stored, "intermediate_value_type": kind}
            steps.append({**mine, "step": number, **row})
        if change.value is not None:
            stored, ending = end.value_to_stored_repr(change.value)
            ends.append({**mine, "objective": 0, "value": stored, "value_type": ending})
        if change.new == TrialState.RUNNING and change.old != change.new:
            beats.append(mine)
    _clear(session, attr, "key", attrs)
    _clear(session, step, "step", steps)
    for model, rows in ((attr, attrs), (step, steps), (end, ends), (TrialHeartbeatModel, beats)):
        _put(session, model, rows)


def _clear(session: Session, model: Any, key: str, rows: list[dict[str, Any]]) -> None:
    """Delete the rows in whose place others come."""
    if not rows:
        return
    table = model.__table__
    ids, names = {row["trial_id"] for row in rows}, {row[key] for row in rows}
    present = session.connection().execute(
        select(table.c.trial_id, table.c[key]).where(
            table.c.trial_id.in_(ids), table.c[key].in_(names)
        )
    )
    wanted = {(row["trial_id"], row[key]) for row in rows}
    old = [{"id": i, "name": name} for i, name in present.all() if (i, name) in wanted]
    if old:
        where = (table.c.trial_id == bindparam("id"), table.c[key] == bindparam("name"))
        session.connection().execute(delete(table).where(*where), old)


def _swap_plainly(storage: BaseStorage, study_id: int, change: Change, space: Space) -> bool:
    """One change by Optuna's own calls, for a storage that is no relational database."""
    trial_id = change.trial_id
    if storage.get_trial(trial_id).state != change.old:
        return False
    try:
        # To take a trial is one call that only one worker survives; to end one comes last.
        taken = change.new == TrialState.RUNNING and change.old != change.new
        if taken and not storage.set_trial_state_values(trial_id, change.new):
            return False
        for key, item in change.attrs.items():
            storage.set_trial_user_attr(trial_id, key, item)
        for number, score in change.steps.items():
            storage.set_trial_intermediate_value(trial_id, number, score)
        if change.new.is_finished():
            values = None if change.value is None else [change.value]
            if not storage.set_trial_state_values(trial_id, change.new, values):
                return False
    except UpdateFinishedTrialError:
        return False
    if change.again is not None:
        template = create_trial(
            state=TrialState.WAITING,
            params=dict(change.again.params),
            distributions=dict(space),
            user_attrs=dict(change.again.attrs),
        )
        storage.create_new_trial(study_id, template_trial=template)
    return True


# ------------------------------------------------------------------ attributes of a study


def put_study_attrs(storage: BaseStorage, study_id: int, attrs: Attrs) -> None:
    """Set system attributes of a study, over what was there, all in one commit."""
    backend = backend_of(storage)
    if backend is None:
        for key, item in attrs.items():
            storage.set_study_system_attr(study_id, key, item)
        return
    table: Any = StudySystemAttributeModel.__table__

    def write() -> None:
        with _create_scoped_session(backend.scoped_session) as session:
            _lock(session, study_id)
            mine = table.c.study_id == study_id
            present = {key for (key,) in session.execute(select(table.c.key).where(mine))}
            old = [{"name": key} for key in attrs if key in present]
            if old:
                where = (mine, table.c.key == bindparam("name"))
                session.connection().execute(delete(table).where(*where), old)
            rows = [
                {"study_id": study_id, "key": key, "value_json": json.dumps(item)}
                for key, item in attrs.items()
            ]
            _put(session, StudySystemAttributeModel, rows)

    if attrs:
        patiently(storage, write)


def swap_study_attr(storage: BaseStorage, study_id: int, key: str, old: Any, new: Any) -> bool:
    """Set a system attribute of a study if it is `old` (None: not set); whether it was.

    After a connection that broke off one that is `new` was set by this call.
    """
    backend = backend_of(storage)
    if backend is None:
        found = storage.get_study_system_attrs(study_id).get(key)
        if found == old:
            storage.set_study_system_attr(study_id, key, new)
        return bool(found == old)
    table: Any = StudySystemAttributeModel.__table__
    here = (table.c.study_id == study_id, table.c.key == key)
    tries = 0

    def write() -> bool:
        nonlocal tries
        tries += 1
        with _create_scoped_session(backend.scoped_session) as session:
            _lock(session, study_id)
            text = session.execute(select(table.c.value_json).where(*here)).scalar_one_or_none()
            found = None if text is None else json.loads(text)
            if found != old:
                return bool(tries > 1 and found == new)
            session.execute(delete(table).where(*here))
            row = {"study_id": study_id, "key": key, "value_json": json.dumps(new)}
            _put(session, StudySystemAttributeModel, [row])
        return True

    return patiently(storage, write)
