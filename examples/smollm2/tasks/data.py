"""Reads the facts of the demo's tasks, which lie beside its models."""

from __future__ import annotations

import json

from datasets import Dataset

from optlayers.config.study import STUDIES


def load(file: str, **_: object) -> dict[str, Dataset]:
    """Load one JSONL file of the demo as the only split, `test`."""
    lines = (STUDIES / "demo" / "tasks" / file).read_text("utf-8").splitlines()
    return {"test": Dataset.from_list([json.loads(line) for line in lines])}
