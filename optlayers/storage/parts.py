"""Parts: a long user attribute as several short ones, since MySQL keeps 64 KB of text in a field.

Without its strict mode MySQL cuts what is longer, and says nothing. The attribute itself then holds
the number of its parts and a digest of them all.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

LONGEST = 30_000  # characters of JSON; as a text of JSON again a part is at most twice as long
_PARTS = "optlayers:parts"
HEAD = f'{{"{_PARTS}"'  # how the JSON of a value in parts begins


def split(key: str, value: Any) -> dict[str, Any]:
    """The attributes that hold a value: parts first, the key itself last."""
    if value is None or isinstance(value, bool | int | float):
        return {key: value}
    text = json.dumps(value)
    if len(text) <= 2 * LONGEST:
        return {key: value}
    parts = [text[start : start + LONGEST] for start in range(0, len(text), LONGEST)]
    head = {_PARTS: [len(parts), _digest(text)]}
    return {**{_name(key, i): part for i, part in enumerate(parts)}, key: head}


def join(attrs: dict[str, Any]) -> dict[str, Any]:
    """Put values in parts together again, in place.

    One that is just being replaced is left out: its parts are not all of one value.
    """
    heads = {k: v[_PARTS] for k, v in attrs.items() if isinstance(v, dict) and _PARTS in v}
    for key, (count, digest) in heads.items():
        text = "".join(str(attrs.pop(_name(key, i), "")) for i in range(count))
        if _digest(text) == digest:
            attrs[key] = json.loads(text)
        else:
            del attrs[key]
    return attrs


def _name(key: str, part: int) -> str:
    return f"{key}/{part}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
