"""FastStore: a study's trials and attributes in Optuna's tables, a cohort in one commit.

It works on SQLite, PostgreSQL, MySQL and MariaDB. `tables.difference` says whether the tables of
the installed Optuna are as this module expects.
"""

from __future__ import annotations

import datetime
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import Connection, Engine, Table, delete, func, insert, select, tuple_, update

from optlayers.storage.parts import split
from optlayers.storage.store import ACTIVE, Change, NewTrial, StudyStore

T = TypeVar("T")
_tables: Mapping[str, Table] = models.BaseModel.metadata.tables
STUDIES, STUDY_ATTRS = _tables["studies"], _tables["study_system_attributes"]
TRIALS, PARAMS = _tables["trials"], _tables["trial_params"]
ATTRS, SYSTEM_ATTRS = _tables["trial_user_attributes"], _tables["trial_system_attributes"]
VALUES, STEPS = _tables["trial_values"], _tables["trial_intermediate_values"]
HEARTBEATS = _tables["trial_heartbeats"]


class FastStore(StudyStore):
    """A `StudyStore` whose every call is one commit, never half written."""

    def __init__(self, study: optuna.Study) -> None:
        super().__init__(study)
        self._engine: Engine = self.storage.engine  # type: ignore[attr-defined]

    def _commit(self, write: Callable[[Connection, bool], T]) -> T:
        """Call `write` in one transaction, and again if the connection broke.

        Its second argument is then True: an earlier call may have been committed.
        """
        tries = itertools.count()

        def attempt() -> T:
            with self._engine.begin() as connection:
                return write(connection, next(tries) > 0)

        return self.retry.call(attempt)

    # ------------------------------------------------------------------ making trials

    def insert_running(self, wanted: Sequence[NewTrial], unique: str) -> list[int | None]:
        """As in `StudyStore`, each trial with its first heartbeat."""

        def write(connection: Connection, again: bool) -> list[int | None]:
            count = self._lock_study(connection)
            active = self._active(connection)
            taken = [attrs.get(unique) for attrs in active.values()]
            found: list[int | None] = []
            chosen: list[NewTrial] = []
            for new in wanted:
                made = [n for n, attrs in active.items() if again and attrs == new.attrs]
                if made:
                    found.append(made[0])
                elif new.attrs[unique] in taken:
                    found.append(None)
                else:
                    found.append(count + len(chosen))
                    chosen.append(new)
                    taken.append(new.attrs[unique])
            self._insert(connection, TrialState.RUNNING, chosen, count)
            return found

        return self._commit(write) if wanted else []

    def _lock_study(self, connection: Connection) -> int:
        """Keep others from making trials of the study until the commit; its number of trials.

        As Optuna does: so numbers, and ids, are in the order of the commits.
        """
        mine = STUDIES.c.study_id == self.study_id
        if connection.dialect.name == "sqlite":
            # It has no row locks. A write before the first read locks the whole database.
            connection.execute(update(STUDIES).where(mine).values(study_name=STUDIES.c.study_name))
        connection.execute(select(STUDIES.c.study_id).where(mine).with_for_update()).one()
        counted = select(func.count()).where(TRIALS.c.study_id == self.study_id)
        return int(connection.execute(counted).scalar_one())

    def _active(self, connection: Connection) -> dict[int, dict[str, Any]]:
        """The user attributes of every RUNNING or WAITING trial by its number."""
        found: dict[int, dict[str, Any]] = {}
        rows = connection.execute(
            select(TRIALS.c.number, ATTRS.c.key, ATTRS.c.value_json)
            .join(ATTRS, TRIALS.c.trial_id == ATTRS.c.trial_id)
            .where(TRIALS.c.study_id == self.study_id, TRIALS.c.state.in_(ACTIVE))
        )
        for number, key, text in rows:
            found.setdefault(number, {})[key] = json.loads(text)
        return found

    def _insert(
        self, connection: Connection, state: TrialState, wanted: Sequence[NewTrial], count: int
    ) -> None:
        """Insert trials into a study that is locked and has `count` trials."""
        begun = _now() if state == TrialState.RUNNING else None
        mine = {"study_id": self.study_id, "state": state, "datetime_start": begun}
        _put(connection, TRIALS, [{**mine, "number": count + i} for i in range(len(wanted))])
        made = select(TRIALS.c.trial_id).where(
            TRIALS.c.study_id == self.study_id, TRIALS.c.number >= count
        )
        ids = connection.execute(made.order_by(TRIALS.c.number)).scalars().all() if wanted else []
        params = [row for pair in zip(ids, wanted, strict=True) for row in _param_rows(*pair)]
        attrs = [
            row for i, new in zip(ids, wanted, strict=True) for row in _attr_rows(i, new.attrs)
        ]
        _put(connection, PARAMS, params)
        _put(connection, ATTRS, attrs)
        if state == TrialState.RUNNING:
            _put(connection, HEARTBEATS, [{"trial_id": trial_id} for trial_id in ids])

    # ------------------------------------------------------------------ changing trials

    def swap_states(self, changes: Sequence[Change]) -> set[int]:
        """As in `StudyStore`."""
        # In the order of ids, so that no two transactions wait for each other.
        ids = sorted(((self.trial_id(c.number), c) for c in changes), key=lambda pair: pair[0])

        def write(connection: Connection, again: bool) -> set[int]:
            count = self._lock_study(connection) if any(c.requeue for c in changes) else 0
            done = [(i, c) for i, c in ids if _swap(connection, i, c)]
            _replace_parts(connection, done)
            requeued = [c.requeue for _, c in done if c.requeue is not None]
            self._insert(connection, TrialState.WAITING, requeued, count)
            return {c.number for _, c in done}

        return self._commit(write) if changes else set()

    # ------------------------------------------------------------------ attributes

    def put_attrs(self, attrs: Mapping[str, Any]) -> None:
        """As in `StudyStore`."""

        def write(connection: Connection, again: bool) -> None:
            self._lock_study(connection)
            self._replace_attrs(connection, attrs)

        if attrs:
            self._commit(write)

    def swap_attr(self, key: str, old: Any, new: Any) -> bool:
        """As in `StudyStore`."""
        here = (STUDY_ATTRS.c.study_id == self.study_id, STUDY_ATTRS.c.key == key)

        def write(connection: Connection, again: bool) -> bool:
            self._lock_study(connection)
            text = connection.execute(select(STUDY_ATTRS.c.value_json).where(*here)).scalar()
            found = None if text is None else json.loads(text)
            if found != old:
                return bool(again and found == new)
            self._replace_attrs(connection, {key: new})
            return True

        return self._commit(write)

    def _replace_attrs(self, connection: Connection, attrs: Mapping[str, Any]) -> None:
        mine = STUDY_ATTRS.c.study_id == self.study_id
        connection.execute(delete(STUDY_ATTRS).where(mine, STUDY_ATTRS.c.key.in_(list(attrs))))
        rows = [
            {"study_id": self.study_id, "key": key, "value_json": json.dumps(item)}
            for key, item in attrs.items()
        ]
        _put(connection, STUDY_ATTRS, rows)

    # ------------------------------------------------------------------ heartbeats

    def beat(self, numbers: Iterable[int]) -> None:
        """As in `StudyStore`."""
        ids = sorted(self.trial_id(number) for number in numbers)

        def write(connection: Connection, again: bool) -> None:
            renewed = update(HEARTBEATS).where(HEARTBEATS.c.trial_id.in_(ids))
            connection.execute(renewed.values(heartbeat=func.now()))

        if ids:
            self._commit(write)

    def heartbeats(self) -> dict[int, tuple[str, float]]:
        """As in `StudyStore`."""

        def read(connection: Connection, again: bool) -> dict[int, tuple[str, float]]:
            rows = connection.execute(
                select(TRIALS.c.number, HEARTBEATS.c.heartbeat, func.now())
                .outerjoin(HEARTBEATS, HEARTBEATS.c.trial_id == TRIALS.c.trial_id)
                .where(TRIALS.c.study_id == self.study_id, TRIALS.c.state == TrialState.RUNNING)
            )
            return {
                number: (
                    str(last),
                    0.0 if last is None else (now.replace(tzinfo=None) - last).total_seconds(),
                )
                for number, last, now in rows
            }

        return self._commit(read)


def _now() -> datetime.datetime:
    """The time as Optuna stores it: UTC, without a zone."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


@functools.cache
def _as_json(distribution: BaseDistribution) -> str:
    return distribution_to_json(distribution)


def _param_rows(trial_id: int, new: NewTrial) -> list[dict[str, Any]]:
    return [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": new.distributions[name].to_internal_repr(value),
            "distribution_json": _as_json(new.distributions[name]),
        }
        for name, value in new.params.items()
    ]


def _attr_rows(trial_id: int, attrs: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"trial_id": trial_id, "key": name, "value_json": json.dumps(part)}
        for key, item in attrs.items()
        for name, part in split(key, item).items()
    ]


def _put(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows with one statement."""
    if rows:
        connection.execute(insert(table), rows)


def _swap(connection: Connection, trial_id: int, change: Change) -> bool:
    """Change the state of a trial; whether it was in its old state."""
    values: dict[str, Any] = {"state": change.new}
    if change.new.is_finished():
        values["datetime_complete"] = _now()
    elif change.new != change.old:
        values["datetime_start"] = _now()
    mine = (TRIALS.c.trial_id == trial_id, TRIALS.c.state == change.old)
    if change.new == change.old:
        # MySQL counts the rows that changed, so setting the same state would not count.
        locked = select(TRIALS.c.trial_id).where(*mine).with_for_update()
        return connection.execute(locked).first() is not None
    return connection.execute(update(TRIALS).where(*mine).values(values)).rowcount == 1


def _replace_parts(connection: Connection, changes: Iterable[tuple[int, Change]]) -> None:
    """Write parts of the trials in place of what they have."""
    params: list[dict[str, Any]] = []
    attrs: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    values: list[dict[str, Any]] = []
    beats: list[dict[str, Any]] = []
    to_step = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
    for trial_id, change in changes:
        mine = {"trial_id": trial_id}
        given = change.given
        if given is not None:
            params += _param_rows(trial_id, given)
        attrs += _attr_rows(trial_id, {**(given.attrs if given else {}), **change.attrs})
        for step, score in change.steps.items():
            stored, kind = to_step(score)
            row = {"intermediate_value": stored, "intermediate_value_type": kind}
            steps.append({**mine, "step": step, **row})
        if change.value is not None:
            stored, ending = models.TrialValueModel.value_to_stored_repr(change.value)
            values.append({**mine, "objective": 0, "value": stored, "value_type": ending})
        if change.new == TrialState.RUNNING != change.old:
            beats.append(mine)
    _replace(connection, PARAMS, "param_name", params)
    _replace(connection, ATTRS, "key", attrs)
    _replace(connection, STEPS, "step", steps)
    _put(connection, VALUES, values)
    _put(connection, HEARTBEATS, beats)


def _replace(connection: Connection, table: Table, name: str, rows: list[dict[str, Any]]) -> None:
    """Insert rows in place of those of the same trial and `name`."""
    if rows:
        pairs = [(row["trial_id"], row[name]) for row in rows]
        old = tuple_(table.c.trial_id, table.c[name]).in_(pairs)
        connection.execute(delete(table).where(old))
        _put(connection, table, rows)
