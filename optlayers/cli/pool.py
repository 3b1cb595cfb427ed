"""The local worker processes of `optlayers search`: started, watched, started again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field

from optlayers.cli.view import LocalWorker
from optlayers.errors import InputError, RunError

MAX_RESTARTS = 5
LONGEST_DELAY = 60.0
STOP_SECONDS = 20.0


@dataclass
class Slot:
    """One worker: its command, its process, and its last lines."""

    command: list[str]
    device: str
    threads: int = 1
    process: subprocess.Popen[str] | None = None
    restarts: int = 0
    begin_at: float = 0.0
    finished: bool = False
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=5))

    @property
    def state(self) -> str:
        """What it does, in a word or a line."""
        if self.finished:
            return "done"
        if self.process is None:
            return "starting again"
        # An error is told once, when the process has ended.
        said = [line for line in self.lines if not line.startswith("optlayers: ")]
        return said[-1] if said else "starting"

    @property
    def shown(self) -> LocalWorker:
        """The worker for the live view."""
        return LocalWorker(self.device, self.state, self.process.pid if self.process else 0)


class Pool:
    """Worker processes of one study on this machine.

    A worker that ends by the user's fault ends the pool (`InputError`); one that crashes is
    started again after a growing delay, at most `MAX_RESTARTS` times before it has told a result
    (`RunError`). None is started, and all leave, after `max_seconds`.
    """

    def __init__(
        self, slots: list[Slot], env: dict[str, str], max_seconds: float | None = None
    ) -> None:
        self.env = {**os.environ, **env}
        self.slots = slots
        self.notes: deque[str] = deque()
        self._end = None if max_seconds is None else time.monotonic() + max_seconds

    def start(self) -> None:
        """Start all workers."""
        for slot in self.slots:
            self._start(slot)

    def _start(self, slot: Slot) -> None:
        slot.lines.clear()
        # A file of the user's such as re.py, in the folder where they search, is no module of ours.
        apart = [] if {"", os.getcwd()} & set(sys.path) else ["-P"]
        command = [sys.executable, *apart, "-m", "optlayers", *slot.command]
        if self._end is not None:
            left = self._end - time.monotonic()
            if left <= 0:
                slot.finished = True
                return
            command += ["--max-minutes", f"{left / 60:.4f}"]
        slot.process = subprocess.Popen(
            command,
            env={**self.env, "OMP_NUM_THREADS": str(slot.threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # Ctrl-C reaches this process alone; it tells the workers.
            start_new_session=True,
        )
        threading.Thread(target=self._listen, args=(slot, slot.process), daemon=True).start()

    @staticmethod
    def _listen(slot: Slot, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            if line.strip():
                slot.lines.append(line.strip())

    def watch(self, told: Container[int] = ()) -> bool:
        """Look after the workers; False once all have finished.

        `told` holds the process numbers of workers that have told a result: their crashes are
        counted from none again.
        """
        now = time.monotonic()
        for number, slot in enumerate(self.slots):
            if slot.finished:
                continue
            if slot.process is None:
                if now >= slot.begin_at:
                    self._start(slot)
                continue
            if slot.restarts and slot.process.pid in told:
                slot.restarts = 0
            code = slot.process.poll()
            if code is None:
                continue
            time.sleep(0.05)  # let the listener take the last lines
            last = slot.lines[-1].removeprefix("optlayers: ") if slot.lines else "no reason given"
            slot.process = None
            if code == 0:
                slot.finished = True
            elif code == 2:
                lines = [x.removeprefix("optlayers: ") for x in slot.lines if "optlayers: " in x]
                raise InputError("\n".join(lines) or last)
            elif slot.restarts == MAX_RESTARTS:
                raise RunError(
                    f"worker {number} failed {MAX_RESTARTS + 1} times without a result; the last: "
                    f"{_how(code)}: {last}"
                )
            else:
                slot.restarts += 1
                delay = min(2.0 ** (slot.restarts - 1), LONGEST_DELAY)
                slot.begin_at = now + delay
                self.notes.append(
                    f"worker {number} ended ({_how(code)}: {last}); again in {delay:.0f} s"
                )
        return not all(slot.finished for slot in self.slots)

    def stop(self) -> None:
        """Ask all workers to leave, and end those that do not."""
        running = [slot.process for slot in self.slots if slot.process is not None]
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


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
