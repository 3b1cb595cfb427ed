"""The runs of benchmarks/storage/reliability.py: a search, its workers, its disturbances."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import optuna
import yaml

from benchmarks.lib import program
from benchmarks.lib.forked_worker import Forked
from benchmarks.lib.program import LANDSCAPE
from benchmarks.lib.servers import MariaDB, Postgres, Server
from benchmarks.lib.small_disk import small_disk
from optlayers.config.study import StudyDefinition, load_study
from optlayers.storage.connect import open_study

MOST_LAYERS = 4
STUDY = """\
name: reliability
base: {model: b}
donor: {model: d}
layers: {min: 1, max: 4}
tasks: [{name: t}]
questions: {fast: 6, full: 24}
validate: {top: 8}
refine: {top: 1, verify: 3, rounds: 1}
"""
COHORT = 4
END_SECONDS = 120.0  # from the end of a study to that of its last worker
SMALL_DISK = "16m"

Database = Literal["sqlite", "postgresql", "mariadb"]
Unavailable = Literal["", "server", "disk"]


@dataclass
class Run:
    """One run: what is done to it."""

    name: str
    workers: int
    seconds: float  # that the search should last
    sets: int = 1200  # layer sets explored
    kill_every: float = 0.0  # mean seconds between two kills; 0: none
    kill_busy: bool = False  # only in the middle of an evaluation
    elsewhere: int = 0  # workers in process namespaces of their own
    database: Database = "sqlite"
    unavailable: Unavailable = ""  # in mid-search: a server, or all space on the disk
    outage: float = 0.0  # for so many seconds
    bad_sets: Mapping[str, str] = field(default_factory=dict)  # raise, hang, nan or exit
    faults: list[str] = field(default_factory=list)


@dataclass
class Figures:
    """What came of it."""

    seconds: float = 0.0
    kills: int = 0
    trials: int = 0
    layer_sets: int = 0
    questions: int = 0  # distinct, of layer sets
    again: int = 0  # asked once more, all in flight at a kill
    lost: int = 0  # trials failed for a lost worker
    given_up: int = 0  # layer sets given up after the last retry
    ended: int = 0  # workers that a layer set ended
    waited: int = 0  # workers that said that they wait for the database
    back: float = 0.0  # seconds from the server's return to the next result


class Workers:
    """Worker processes of one study, each with a folder of its own for what it was asked."""

    def __init__(self, folder: Path, url: str, run: Run) -> None:
        self.folder, self.url, self.run = folder, url, run
        # About 100 questions a set; a worker sleeps through nearly all of its time.
        self.pace = run.workers * run.seconds / (100.0 * run.sets)
        self.alive: dict[int, subprocess.Popen[bytes] | Forked] = {}
        self.elsewhere: set[int] = set()
        self.killed: set[int] = set()
        self.started = 0

    def start(self, elsewhere: bool = False) -> None:
        """One worker more."""
        number, self.started = self.started, self.started + 1
        spec = {
            "landscape": str(LANDSCAPE),
            "seconds": self.pace,
            "log": f"asked/{number}",
            "faults": dict(self.run.bad_sets),
        }
        (self.folder / f"replay-{number}.yaml").write_text(yaml.safe_dump(spec))
        command = ["worker", "--wait", "--study", "study.yaml"]
        command += ["--replay", f"replay-{number}.yaml"]
        command += ["--cohort", str(COHORT), "--index", str(number)]
        if self.run.bad_sets:
            command += ["--hang-minutes", "0.1"]
        err = self.folder / f"err-{number}"
        # In the environment, so that no process list shows a password.
        env = {"OPTLAYERS_STORAGE": self.url, "OMP_NUM_THREADS": "1"}
        if not elsewhere:
            self.alive[number] = Forked(self.folder, command, env, err)
            return
        self.elsewhere.add(number)
        apart = ["unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
        with err.open("wb") as written:
            self.alive[number] = subprocess.Popen(
                [*apart, sys.executable, "-m", "optlayers", *command],
                cwd=self.folder,
                env={**os.environ, **env, "PYTHONPATH": str(program.ROOT)},
                stdout=subprocess.DEVNULL,
                stderr=written,
            )

    def kill(self, number: int) -> None:
        """kill -9, and another in its place."""
        process = self.alive.pop(number)
        process.kill()
        process.wait()
        self.killed.add(number)
        self.start(number in self.elsewhere)

    def at_work(self) -> list[int]:
        """The workers that are past their start."""
        return [n for n in sorted(self.alive) if (self.folder / "asked" / str(n)).exists()]

    def evaluating(self) -> list[int]:
        """The workers that have just begun an evaluation."""
        late = time.time() - 20 * self.pace  # each lasts for twice as many questions at least
        return [
            number
            for number in self.at_work()
            if any(
                p.stat().st_mtime > late for p in (self.folder / "asked" / str(number)).iterdir()
            )
        ]

    def said(self, number: int) -> str:
        """What a worker has written on standard error."""
        path = self.folder / f"err-{number}"
        return path.read_text(errors="replace") if path.exists() else ""

    def ended(self) -> list[tuple[int, int]]:
        """The workers that have ended by themselves since the last look, with exit codes."""
        codes = {n: process.poll() for n, process in self.alive.items()}
        found = [(n, code) for n, code in codes.items() if code is not None]
        for number, _ in found:
            del self.alive[number]
        return found

    def close(self) -> None:
        """End what is left."""
        for process in self.alive.values():
            process.kill()
            process.wait()


def definition_in(folder: Path, sets: int) -> StudyDefinition:
    """The study, in that folder, with a budget of that many sets to explore."""
    population = max(8, min(40, sets // 5))
    generations = max(1, sets // population)
    explore = {"population": population, "generations": generations, "patience": generations}
    path = folder / "study.yaml"
    path.write_text(STUDY + yaml.safe_dump({"explore": explore}))
    return load_study(str(path))


def search(run: Run, place: Place, folder: Path) -> tuple[Workers, Figures]:
    """Run the search and do to it what is to be done."""
    study = open_study(place.direct, definition_in(folder, run.sets))
    workers = Workers(folder, place.url, run)
    rng, figures, began = random.Random(0), Figures(), time.monotonic()
    for number in range(run.workers):
        workers.start(number < run.elsewhere)
    # Far more than it takes where others use the machine too.
    latest = 10 * run.seconds + run.outage + 20 * run.workers + END_SECONDS
    # From the moment when the first is past its start.
    at_work, next_kill, back_at, finished = 0.0, 0.0, 0.0, 0
    try:
        while workers.alive:
            time.sleep(0.05 if run.kill_busy else 0.2)
            now = time.monotonic()
            for number, code in workers.ended():
                if code and run.bad_sets:
                    # As the pool of `optlayers search` does it.
                    workers.killed.add(number)
                    figures.ended += 1
                    workers.start()
                elif code:
                    run.faults.append(f"worker {number} ended with {code}: {workers.said(number)}")
            ready = workers.at_work()
            if ready and not at_work:
                at_work, next_kill = now, now + run.kill_every
            if run.kill_busy:
                ready = workers.evaluating()
            # A short run goes on until three are killed, however late its workers begin.
            last_kill = at_work + (END_SECONDS if figures.kills < 3 else run.seconds)
            if run.kill_every and ready and next_kill <= now < last_kill:
                next_kill = now + run.kill_every * rng.uniform(0.5, 1.5)
                workers.kill(rng.choice(ready))
                figures.kills += 1
            if run.outage and at_work and not back_at and now >= at_work + run.seconds / 3:
                finished = count_finished(study)
                place.interrupt(run.outage)
                back_at = time.monotonic()
            elif back_at and not figures.back and count_finished(study) > finished:
                figures.back = time.monotonic() - back_at
            if now > began + latest:
                run.faults.append(
                    f"{len(workers.alive)} workers did not end in {now - began:.0f} s"
                )
                break
    finally:
        workers.close()
    figures.seconds = time.monotonic() - began
    said = [workers.said(number) for number in range(workers.started)]
    figures.waited = sum("waiting for storage" in text for text in said)
    return workers, figures


def count_finished(study: optuna.Study) -> int:
    """The trials that are over."""
    return sum(t.state.is_finished() for t in study.get_trials(deepcopy=False))


# ------------------------------------------------------------------ where the study lies


class Place:
    """A database: the URL that workers use, the one that leads straight to it, its absences."""

    def __init__(self, direct: str, url: str | None = None) -> None:
        self.direct, self.url = direct, url or direct

    def interrupt(self, seconds: float) -> None:
        """Make the database unavailable for so many seconds."""
        raise NotImplementedError


class Served(Place):
    """A database on a server, which is killed (SIGKILL) to be unavailable."""

    def __init__(self, url: str, server: Server) -> None:
        super().__init__(url)
        self.server = server

    def interrupt(self, seconds: float) -> None:
        """Kill the server, and start it again."""
        self.server.stop(signal.SIGKILL)
        time.sleep(seconds)
        self.server.start()


class Disk(Place):
    """SQLite on a small disk, which is filled up to be unavailable."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"sqlite:///{folder / 'optuna.db'}")
        self.folder = folder

    def interrupt(self, seconds: float) -> None:
        """Fill the disk to the last byte, and make room again."""
        ballast = self.folder / "ballast"
        deadline = time.monotonic() + seconds
        with ballast.open("ab", buffering=0) as full:
            while time.monotonic() < deadline:
                # Repeated, so that the database cannot use space that it frees.
                with contextlib.suppress(OSError):
                    while True:
                        full.write(b"x" * 4096)
                time.sleep(0.1)
        ballast.unlink()


@contextlib.contextmanager
def place_of(run: Run, folder: Path) -> Iterator[Place]:
    """The database of a run."""
    with contextlib.ExitStack() as stack:
        if run.database == "sqlite":
            if run.unavailable == "disk":
                yield Disk(stack.enter_context(small_disk(folder / "disk", SMALL_DISK)))
            else:
                yield Place(f"sqlite:///{folder / 'optuna.db'}")
            return
        server = stack.enter_context(Postgres() if run.database == "postgresql" else MariaDB())
        url = stack.enter_context(server.database())
        yield Served(url, server)


@contextlib.contextmanager
def a_folder() -> Iterator[Path]:
    """A folder for one run."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
