"""The worker processes of `optlayers search`: their devices and CPU threads, start and restart."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from optlayers.cli.screen import LocalWorker
from optlayers.config import machine
from optlayers.errors import InputError, RunError

MOST_ON_CPU = 8
MAX_RESTARTS = 5
LONGEST_DELAY = 60.0
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Resources:
    """The device of one worker, and its share of the CPU cores."""

    device: str
    threads: int


def visible_gpus() -> list[str]:
    """The GPUs that this process may use; loads torch only if there may be one."""
    if not Path("/dev/nvidiactl").exists() and not Path("/proc/driver/nvidia").exists():
        return []
    import torch

    return [f"cuda:{i}" for i in range(torch.cuda.device_count())]


def parse_devices(text: str | None, gpus: Sequence[str]) -> list[str]:
    """`cuda:0,cuda:1`, `0,1`, `cuda` (all) or `cpu` as a list; None: all GPUs, or else the CPU.

    Raises `InputError` for a device that does not exist.
    """
    if text is None:
        return list(gpus) or ["cpu"]
    found: list[str] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        name = f"cuda:{part}" if part.isdecimal() else part
        if name != "cpu" and name not in (gpus and ["cuda", *gpus]):
            here = ", ".join(["cpu", *gpus])
            raise InputError(f"--devices names {name!r}; choose from those here: {here}")
        found += gpus if name == "cuda" else [name]
    if not found or len(set(found)) < len(found) or ("cpu" in found and len(found) > 1):
        raise InputError(
            f"--devices is {text!r}; name cpu, or each GPU once as in 0,1 (--per-device: several "
            "workers on each)"
        )
    return found


def allocate(
    devices: Sequence[str], workers: int | None, per_device: int | None, cores: int | None = None
) -> list[Resources]:
    """Distribute workers over devices, and the CPU cores over the workers.

    One worker per GPU, unless `per_device` allows more; on a CPU one per core, at most
    `MOST_ON_CPU`. Raises `InputError` for more workers than the GPUs take.
    """
    cores = cores or machine.cores()
    on_cpu = devices[0] == "cpu"
    room = len(devices) * (per_device or 1)
    if workers is None:
        workers = min(cores, MOST_ON_CPU) if on_cpu and per_device is None else room
    elif workers > room and not on_cpu:
        needed = -(-workers // len(devices))
        raise InputError(
            f"--workers is {workers}, and {', '.join(devices)} take {room}; if memory allows, add "
            f"--per-device {needed}"
        )
    share, more = divmod(cores, workers)
    return [
        Resources(devices[number % len(devices)], max(1, share + (number < more)))
        for number in range(workers)
    ]


@dataclass
class WorkerProcess:
    """One worker: its command, its resources, its process, and its last lines."""

    command: list[str]
    resources: Resources
    process: subprocess.Popen[str] | None = None
    restarts: int = 0
    start_at: float = 0.0
    finished: bool = False
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=5))

    @property
    def state(self) -> str:
        """What it is doing, in a line."""
        if self.finished:
            return "done"
        if self.process is None:
            return "restarting"
        # Its error is reported once, when the process has ended.
        said = [line for line in self.lines if not line.startswith("optlayers: ")]
        return said[-1] if said else "starting"

    @property
    def shown(self) -> LocalWorker:
        """The worker for the live display."""
        pid = self.process.pid if self.process else 0
        return LocalWorker(self.resources.device, self.state, pid)


class Pool:
    """The worker processes of one study on this machine.

    A worker that ends because of bad input ends the pool (`InputError`). One that crashes is
    restarted after a growing delay, at most `MAX_RESTARTS` times without a result (`RunError`).
    After `max_seconds` all stop, and none is started.
    """

    def __init__(
        self, workers: list[WorkerProcess], env: dict[str, str], max_seconds: float | None = None
    ) -> None:
        self.env = {**os.environ, **env}
        self.workers = workers
        self.notes: deque[str] = deque()
        self._end = None if max_seconds is None else time.monotonic() + max_seconds

    def start(self) -> None:
        """Start all workers."""
        for worker in self.workers:
            self._start(worker)

    def _start(self, worker: WorkerProcess) -> None:
        worker.lines.clear()
        # -P: no file of the working directory, such as re.py, hides a module of Python.
        apart = [] if {"", os.getcwd()} & set(sys.path) else ["-P"]
        command = [sys.executable, *apart, "-m", "optlayers", *worker.command]
        if self._end is not None:
            left = self._end - time.monotonic()
            if left <= 0:
                worker.finished = True
                return
            command += ["--max-minutes", f"{left / 60:.4f}"]
        worker.process = subprocess.Popen(
            command,
            env={**self.env, "OMP_NUM_THREADS": str(worker.resources.threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # Ctrl-C reaches this process alone, which then stops its workers.
            start_new_session=True,
        )
        threading.Thread(target=_listen, args=(worker, worker.process), daemon=True).start()

    def watch(self, with_result: Callable[[], Container[int]] = tuple) -> bool:
        """Restart workers that crashed; False once all have finished.

        with_result: gives the process numbers of workers that have stored a result; their restarts
        are counted from zero again.
        """
        now = time.monotonic()
        for number, worker in enumerate(self.workers):
            if worker.finished:
                continue
            if worker.process is None:
                if now >= worker.start_at:
                    self._start(worker)
                continue
            code = worker.process.poll()
            if code is None:
                continue
            if worker.process.pid in with_result():
                worker.restarts = 0
            time.sleep(0.05)  # until the last lines have been read
            lines = [line.removeprefix("optlayers: ") for line in worker.lines]
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            reason = f"{how}: {lines[-1] if lines else 'no message'}"
            worker.process = None
            if code == 0:
                worker.finished = True
            elif code == 2:
                errors = [x for x, line in zip(lines, worker.lines, strict=True) if x != line]
                raise InputError("\n".join(errors) or reason)
            elif worker.restarts == MAX_RESTARTS:
                raise RunError(
                    f"worker {number} failed {MAX_RESTARTS + 1} times without a result; the last "
                    f"failure: {reason}"
                )
            else:
                delay = min(2.0**worker.restarts, LONGEST_DELAY)
                worker.restarts += 1
                worker.start_at = now + delay
                self.notes.append(f"worker {number} ended ({reason}); restart in {delay:.0f} s")
        return not all(worker.finished for worker in self.workers)

    def stop(self) -> None:
        """Ask all workers to stop, and kill those that do not."""
        running = [worker.process for worker in self.workers if worker.process is not None]
        for process in running:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in running:
            try:
                process.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _listen(worker: WorkerProcess, process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if line.strip():
            worker.lines.append(line.strip())
