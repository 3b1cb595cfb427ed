"""The demo's pair, and the converted copies of its weights."""

from __future__ import annotations

from pathlib import Path

from optlayers.config.study import load_study
from optlayers.inference.converted import LOCK


def demo_pair() -> Path:
    """The folder of the demo's checkpoints, which are in bfloat16."""
    definition = load_study("demo")
    return Path(definition.resolve(definition.base.model)).parent


def converted_files(store: Path) -> set[str]:
    """The names of the converted files, without the lock."""
    return {path.name for path in store.iterdir()} - {LOCK}
