"""Definitions: what identifies the one that a study stores, and where it differs from another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from optlayers.config.study import StudyDefinition


def identity(stored: dict[str, Any]) -> dict[str, Any]:
    """What identifies a stored definition, with defaults for fields that it does not have."""
    try:
        return StudyDefinition.model_validate({**stored, "folder": Path()}).identity()
    except ValidationError:
        return stored


def difference(stored: dict[str, Any], definition: StudyDefinition) -> str:
    """The first fields that differ, as they are in the database and here."""
    there, here = _fields(stored), _fields(definition.identity())
    parts = [
        f"{key} is {_short(there.get(key))} there and {_short(here.get(key))} here"
        for key in {**here, **there}
        if there.get(key) != here.get(key) and key.partition(".")[0] in definition.identity()
    ]
    more = f"; and {len(parts) - 3} more" if len(parts) > 3 else ""
    return "; ".join(parts[:3]) + more or "its fingerprint differs"


def _fields(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields by their dotted names, such as `base.model`."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            found |= _fields(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
