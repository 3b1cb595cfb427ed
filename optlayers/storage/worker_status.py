"""Work log: what each worker of a study says of itself, kept with the study.

Device, hardware, versions, what it is doing, and how much it has done: so that anyone who reads
the database sees all workers together. One small commit, at most one a second.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna

from optlayers import __version__
from optlayers.inference.prefix_tree import layer_passes
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.trials import keys
from optlayers.trials.worker_state import WorkerState

SECONDS = 1.0
PACKAGES = ("torch", "transformers", "lm_eval", "optuna", "numpy")


class WorkLog:
    """The log of one worker; `device` and `hardware` are what it runs on."""

    def __init__(
        self,
        study: optuna.Study,
        name: str,
        space: LayerSpace,
        device: str,
        hardware: str,
    ) -> None:
        self.study = study
        self.space = space
        self._facts: dict[str, Any] = {
            "name": name,
            "device": device,
            "hardware": hardware,
            "versions": versions(),
            "begun": time.time(),
        }
        self._questions = self._passes = self._saved = 0
        self._seconds = 0.0
        self._written = float("-inf")

    def did(self, sets: Sequence[LayerSet], questions: int, seconds: float) -> None:
        """Count an evaluation of `sets` on so many questions each."""
        passes = layer_passes(sets, self.space) * questions
        self._questions += len(sets) * questions
        self._passes += passes
        self._saved += len(sets) * self.space.n_layers * questions - passes
        self._seconds += seconds

    def say(self, state: str, now: bool = False) -> None:
        """Store what it does; left out where it was stored a moment ago, unless `now`."""
        if not now and time.monotonic() - self._written < SECONDS:
            return
        self._written = time.monotonic()
        mine = WorkerState(
            **self._facts,
            state=state,
            questions=self._questions,
            passes=self._passes,
            saved_passes=self._saved,
            seconds=round(self._seconds, 3),
            seen=time.time(),
        )
        self.study.set_user_attr(f"{keys.WORKER_STATE}{mine.name}", asdict(mine))


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, optlayers and the libraries that decide about a score."""
    found = {"optlayers": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def cpu_name() -> str:
    """The CPU of this machine and the number of cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{name}, {cores} cores"
