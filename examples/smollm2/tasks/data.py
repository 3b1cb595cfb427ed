"""Reads the facts of the demo's tasks, which lie beside its models."""

from __future__ import annotations

import json

from datasets import Dataset

from optlayers.config.study import STUDIES


def load(file: str, **_: object) -> dict[str, Dataset]:
    """Load one JSONL file of the demo as the only split, `test`."""
    with (STUDIES / "demo" / "tasks" / file).open(encoding="utf-8") as lines:
        return {"test": Dataset.from_list([json.loads(line) for line in lines])}
