"""The proxy's own calls: what must be one commit, through Optuna's gRPC proxy too.

Optuna's proxy makes and ends trials by many calls, each a commit, and other workers come between:
of many that reach for one layer set, all but one would work for nothing. The server that `optlayers
storage serve` starts offers `transactions.py` beside Optuna's service, as JSON. Where a proxy of
another make is met, Optuna's calls serve.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from optlayers import transactions
from optlayers.patience import SERVICE, PatientProxy
from optlayers.transactions import Attrs, Change, NewTrial, Space

Clash = Callable[[Attrs, Attrs], bool]


def insert_running(
    storage: BaseStorage,
    study_id: int,
    wanted: Sequence[NewTrial],
    space: Space,
    clash: Clash,
    same: Clash,
) -> list[tuple[int, int] | None]:
    """As `transactions.insert_running`; a server has `clash` and `same` of its own."""
    if isinstance(storage, PatientProxy) and wanted:
        found = storage.ask(
            "insert_running",
            {"study": study_id, "wanted": [_new(n) for n in wanted], "space": _texts(space)},
        )
        if found is not None:
            return [None if pair is None else (pair[0], pair[1]) for pair in found]
    return transactions.insert_running(storage, study_id, wanted, space, clash, same)


def swap_states(
    storage: BaseStorage, study_id: int, changes: Sequence[Change], space: Space
) -> list[bool]:
    """As `transactions.swap_states`."""
    if isinstance(storage, PatientProxy) and changes:
        told = [
            {
                "trial_id": change.trial_id,
                "old": change.old.name,
                "new": change.new.name,
                "attrs": dict(change.attrs),
                "value": change.value,
                "steps": list(change.steps.items()),
                "again": None if change.again is None else _new(change.again),
            }
            for change in changes
        ]
        asked = {"study": study_id, "changes": told, "space": _texts(space)}
        found = storage.ask("swap_states", asked)
        if found is not None:
            return [bool(done) for done in found]
    return transactions.swap_states(storage, study_id, changes, space)


def swap_study_attr(storage: BaseStorage, study_id: int, key: str, old: Any, new: Any) -> bool:
    """As `transactions.swap_study_attr`."""
    if isinstance(storage, PatientProxy):
        asked = {"study": study_id, "key": key, "old": old, "new": new}
        found = storage.ask("swap_study_attr", asked)
        if found is not None:
            return bool(found)
    return transactions.swap_study_attr(storage, study_id, key, old, new)


def _new(new: NewTrial) -> dict[str, Any]:
    return {"params": dict(new.params), "attrs": dict(new.attrs)}


def _texts(space: Space) -> dict[str, str]:
    return {name: distribution_to_json(distribution) for name, distribution in space.items()}


def _space(texts: dict[str, str]) -> Space:
    return {name: json_to_distribution(text) for name, text in texts.items()}


def handlers(storage: BaseStorage, clash: Clash, same: Clash) -> Any:
    """What a gRPC server answers these calls with, from a storage of its own."""
    import grpc

    def insert(asked: dict[str, Any]) -> Any:
        return transactions.insert_running(
            storage,
            asked["study"],
            [NewTrial(**new) for new in asked["wanted"]],
            _space(asked["space"]),
            clash,
            same,
            retried=asked["retried"],
        )

    def swap(asked: dict[str, Any]) -> Any:
        changes = [
            Change(
                told["trial_id"],
                TrialState[told["old"]],
                TrialState[told["new"]],
                told["attrs"],
                told["value"],
                dict(told["steps"]),
                None if told["again"] is None else NewTrial(**told["again"]),
            )
            for told in asked["changes"]
        ]
        return transactions.swap_states(storage, asked["study"], changes, _space(asked["space"]))

    def swap_attr(asked: dict[str, Any]) -> Any:
        return transactions.swap_study_attr(
            storage,
            asked["study"],
            asked["key"],
            asked["old"],
            asked["new"],
            retried=asked["retried"],
        )

    def answering(work: Callable[[dict[str, Any]], Any]) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: json.dumps(work(json.loads(request))).encode()
        )

    calls = {
        "insert_running": answering(insert),
        "swap_states": answering(swap),
        "swap_study_attr": answering(swap_attr),
    }
    return grpc.method_handlers_generic_handler(SERVICE, calls)
