"""The demo's search through the real command line, its answers replayed from the landscape."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial

from optlayers.storage.connect import open_storage
from tests.helpers.paths import LANDSCAPE


def write_replay(folder: Path, **spec: Any) -> Path:
    """A replay file of the demo's landscape."""
    path = folder / "replay.yaml"
    path.write_text(yaml.safe_dump({"landscape": str(LANDSCAPE), "log": "asked", **spec}))
    return path


def start(
    folder: Path, *arguments: str, url: str | None = None, by: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """`optlayers` in that folder, its errors in the file `err`; `by` runs it."""
    env = {**os.environ, "OPTLAYERS_STORAGE": url or f"sqlite:///{folder / 'optuna.db'}"}
    with (folder / "err").open("a") as err:
        return subprocess.Popen(
            [*by, sys.executable, "-m", "optlayers", *arguments],
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        )


def search(folder: Path, *arguments: str, url: str | None = None) -> subprocess.Popen[str]:
    """`optlayers search` of the demo, replayed."""
    replay = str(folder / "replay.yaml")
    return start(
        folder, "search", "--devices", "cpu", "--replay", replay, "--json", *arguments, url=url
    )


def trials(url: str) -> list[FrozenTrial]:
    """The trials of the demo's study; none while there is no study yet."""
    try:
        study = optuna.load_study(study_name="demo", storage=open_storage(url))
    except KeyError:
        return []
    return study.get_trials(deepcopy=False)


def children(pid: int) -> list[int]:
    """The processes that a process has started and that live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] not in "ZX":
            found.append(int(stat.parent.name))
    return found
