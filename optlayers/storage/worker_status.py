"""What a worker reports about itself, stored with its study, so that anyone can see all workers.

Device, hardware, versions, what it does, and how much it has done: one small commit, at most one a
second.
"""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import time
from dataclasses import asdict, replace
from pathlib import Path

import optuna

from optlayers import __version__
from optlayers.config.machine import cores
from optlayers.trials import keys
from optlayers.trials.worker_state import WorkerState

SECONDS = 1.0
PACKAGES = ("torch", "transformers", "lm_eval", "optuna", "numpy")


class StatusReporter:
    """Reports the state of one worker; hardware: its GPU, or empty for the CPU."""

    def __init__(self, study: optuna.Study, name: str, device: str, hardware: str) -> None:
        self.study = study
        self.worker = WorkerState(
            name, device, hardware or cpu_name(), versions(), begun=time.time()
        )
        self._written = float("-inf")

    def count(self, answers: int, passes: int, saved_passes: int, seconds: float) -> None:
        """Count an evaluation; passes: layer passes that it ran, and saved by shared prefixes."""
        self.worker = replace(
            self.worker,
            questions=self.worker.questions + answers,
            passes=self.worker.passes + passes,
            saved_passes=self.worker.saved_passes + saved_passes,
            seconds=round(self.worker.seconds + seconds, 3),
        )

    def report(self, state: str, now: bool = False) -> None:
        """Store what it does; skipped where it was stored a moment ago, unless `now`."""
        if not now and time.monotonic() - self._written < SECONDS:
            return
        self._written = time.monotonic()
        self.worker = replace(self.worker, state=state, seen=time.time())
        self.study.set_user_attr(f"{keys.WORKER_STATE}{self.worker.name}", asdict(self.worker))


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, optlayers and the libraries that may change a score."""
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
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{name}, {cores()} cores"
