"""Turns: work for a whole study that one worker does while the others wait for it.

Who does what stands in the study, one line a piece of work. A worker that ended in the middle
loses its turn: at once where that can be seen, on this host, and on others after `LONGEST`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import optuna

from optlayers.liveness import is_gone
from optlayers.proxy import swap_study_attr

KEY = "turn:"
LONGEST = 1800.0  # seconds
POLL = 0.5  # seconds


def in_turn(study: optuna.Study, worker: str, work: Mapping[str, Callable[[], None]]) -> None:
    """Return when each piece of work is done, by this worker or by another.

    `work` has names that mean the same to all workers of the study. What one raises ends its
    turn, so that another may try.
    """
    left = dict(work)
    while left:
        for name, do in list(left.items()):
            known = study._storage.get_study_system_attrs(study._study_id).get(KEY + name)
            if known is not None and known["done"]:
                del left[name]
            elif known is None or _is_lost(known):
                mine = {
                    "worker": worker,
                    "since": time.time(),
                    "token": uuid.uuid4().hex,
                    "done": False,
                }
                if _swap(study, name, known, mine):
                    _do(study, name, do, mine)
                    del left[name]
        if left:
            time.sleep(POLL)


def _do(study: optuna.Study, name: str, do: Callable[[], None], mine: dict[str, Any]) -> None:
    try:
        do()
    except BaseException:
        _swap(study, name, mine, {**mine, "since": 0.0})
        raise
    _swap(study, name, mine, {**mine, "done": True})


def _is_lost(known: dict[str, Any]) -> bool:
    return is_gone(known["worker"]) or time.time() - known["since"] > LONGEST


def _swap(study: optuna.Study, name: str, old: Any, new: Any) -> bool:
    return swap_study_attr(study._storage, study._study_id, KEY + name, old, new)
