"""The documents of a task: their number and their digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from optlayers.errors import TaskError, reason


def read_documents(name: str, task: Any, limit: int | None) -> tuple[int, str]:
    """The number of a task's documents, at most `limit`, and their digest.

    Raises `TaskError` if there are none, or if lm-eval would read different ones the next time.
    """
    try:
        docs = task.eval_docs
        count = len(docs) if limit is None else min(len(docs), limit)
        digest = _digest(docs, count)
        again = task.eval_docs
        same = again is docs or _digest(again, count) == digest
    except Exception as error:
        raise TaskError(
            f"task {name!r}: its documents cannot be read ({reason(error)}); check its data"
        ) from None
    if count == 0:
        raise TaskError(f"task {name!r} has no documents; check its data and its splits")
    if not same:
        raise TaskError(
            f"task {name!r}: its documents change each time they are read, so prompts and answers "
            "would not match, in lm_eval too; make process_docs shuffle with a fixed seed"
        )
    return count, digest


def _digest(docs: Iterable[Any], count: int) -> str:
    """A digest of the first documents, in their order."""
    found = hashlib.sha256()
    for _, doc in zip(range(count), docs, strict=False):
        # Values that JSON does not know count by their type: their text may hold an address.
        text = json.dumps(doc, sort_keys=True, default=lambda value: type(value).__name__)
        found.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return found.hexdigest()[:16]
