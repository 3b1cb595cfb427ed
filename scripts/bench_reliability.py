"""Whether a search survives what happens to workers and databases, and with what result.

    python scripts/bench_reliability.py --out benchmarks

Workers are processes of `optlayers worker` that replay the demo's landscape. In the first two runs
a random one is killed (kill -9) every few seconds and another takes its place: 8 workers on SQLite,
32 on PostgreSQL, of which a quarter run in process namespaces of their own (where this is root) and
so are known to the others by their heartbeats alone, as on another machine. In the others the
database server is killed in mid-search and comes back after 20 s. Of each run is checked that

- the study finishes, every worker ends by itself, and no trial is left running or waiting;
- no question of a layer set was evaluated twice, save for work in flight at a kill;
- every stored answer is the recorded one, and the leaderboard equals that of a study in which one
  undisturbed worker evaluated the same sets.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import optuna  # noqa: E402
from servers import MariaDB, Postgres, Server  # noqa: E402

from optlayers.claims import RETRIES, Claims, Told  # noqa: E402
from optlayers.evaluation.landscape import Landscape  # noqa: E402
from optlayers.leaderboard import leaderboard, status  # noqa: E402
from optlayers.search import (  # noqa: E402
    Goal,
    Phase,
    Proposal,
    StratifiedScore,
    keys,
    read_records,
)
from optlayers.storage import open_study  # noqa: E402
from optlayers.study import StudyDefinition, load_study  # noqa: E402

MOST_LAYERS = 4
LANDSCAPE = ROOT / "studies" / "demo" / "landscape.npz"
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


@dataclass
class Run:
    """One run: what is done to it."""

    name: str
    workers: int
    seconds: float  # that the search should last
    sets: int = 1200  # layer sets explored
    kill_every: float = 0.0  # mean seconds between two kills; 0: none
    elsewhere: int = 0  # workers in process namespaces of their own
    outage: float = 0.0  # seconds that the server is away
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
    waited: int = 0  # workers that said that they wait for the database
    back: float = 0.0  # seconds from the server's return to the next result


class Workers:
    """Worker processes of one study, each with a folder of its own for what it was asked."""

    def __init__(self, folder: Path, url: str, seconds_a_question: float) -> None:
        self.folder, self.url, self.pace = folder, url, seconds_a_question
        self.alive: dict[int, subprocess.Popen[bytes]] = {}
        self.away: set[int] = set()
        self.killed: set[int] = set()
        self.started = 0

    def start(self, elsewhere: bool = False) -> None:
        """One worker more."""
        number, self.started = self.started, self.started + 1
        spec = {"landscape": str(LANDSCAPE), "seconds": self.pace, "log": f"asked/{number}"}
        (self.folder / f"replay-{number}.yaml").write_text(yaml.safe_dump(spec))
        command = [sys.executable, "-m", "optlayers", "worker", "--study", "study.yaml"]
        command += ["--replay", f"replay-{number}.yaml", "--cohort", str(COHORT)]
        command += ["--index", str(number)]
        if elsewhere:
            self.away.add(number)
            apart = ["unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
            command = [*apart, *command]
        with (self.folder / f"err-{number}").open("wb") as err:
            self.alive[number] = subprocess.Popen(
                command,
                cwd=self.folder,
                # A password stands in no process list.
                env={**os.environ, "OPTLAYERS_STORAGE": self.url, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.DEVNULL,
                stderr=err,
            )

    def kill(self, number: int) -> None:
        """kill -9, and another in its place."""
        process = self.alive.pop(number)
        process.kill()
        process.wait()
        self.killed.add(number)
        self.start(number in self.away)

    def at_work(self) -> list[int]:
        """The workers that are past their start."""
        return [n for n in sorted(self.alive) if (self.folder / "asked" / str(n)).exists()]

    def said(self, number: int) -> str:
        """What a worker has written on standard error."""
        return (self.folder / f"err-{number}").read_text(errors="replace")

    def ended(self) -> list[tuple[int, int]]:
        """The workers that have ended by themselves since the last look, with exit codes."""
        found = [(n, p.returncode) for n, p in self.alive.items() if p.poll() is not None]
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


def search(run: Run, url: str, server: Server | None, folder: Path) -> tuple[Workers, Figures]:
    """Run the search and do to it what is to be done."""
    definition = definition_in(folder, run.sets)
    study = open_study(url, definition)
    # About 100 questions a set; a worker sleeps through nearly all of its time.
    workers = Workers(folder, url, run.workers * run.seconds / (100.0 * run.sets))
    rng, figures, began = random.Random(0), Figures(), time.monotonic()
    for number in range(run.workers):
        workers.start(number < run.elsewhere)
    next_kill, outage_at, back_at = began + run.kill_every, began + run.seconds / 3, 0.0
    finished = 0
    try:
        while workers.alive:
            time.sleep(0.2)
            now = time.monotonic()
            for number, code in workers.ended():
                if code:
                    run.faults.append(f"worker {number} ended with {code}: {workers.said(number)}")
            if run.kill_every and next_kill <= now < began + run.seconds and workers.alive:
                at_work = workers.at_work()
                if at_work:
                    next_kill = now + run.kill_every * rng.uniform(0.5, 1.5)
                    workers.kill(rng.choice(at_work))
                    figures.kills += 1
            if run.outage and server is not None and not back_at and now >= outage_at:
                finished = count_finished(study)
                server.stop(signal.SIGKILL)
                time.sleep(run.outage)
                server.start()
                back_at = time.monotonic()
            elif back_at and not figures.back and count_finished(study) > finished:
                figures.back = time.monotonic() - back_at
            if now > began + 3 * run.seconds + run.outage + 6 * run.workers + END_SECONDS:
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


# ------------------------------------------------------------------ the checks


def check(run: Run, url: str, folder: Path, workers: Workers, figures: Figures) -> None:
    """Add to the run's faults what is not as it must be, and fill in the figures."""
    definition = load_study(str(folder / "study.yaml"))
    study = open_study(url, definition, create=False)
    state = status(definition, study)
    if state.phase != "done":
        run.faults.append(f"the study is in phase {state.phase}")
    for name in ("running", "waiting"):
        if state.trials[name]:
            run.faults.append(f"{state.trials[name]} trials are still {name}")
    trials = study.get_trials(deepcopy=False)
    reasons = [str(t.user_attrs.get(keys.REASON, "")) for t in trials]
    figures.trials, figures.layer_sets = len(trials), state.distinct_layer_sets
    figures.lost = sum(reason.startswith(keys.REASON_LOST) for reason in reasons)
    figures.given_up = sum(reason.startswith(keys.REASON_SPENT) for reason in reasons)
    for trial, reason in zip(trials, reasons, strict=True):
        if trial.state == optuna.trial.TrialState.FAIL and not reason:
            run.faults.append(f"trial {trial.number} failed without a reason")
        if int(trial.user_attrs.get(RETRIES, 0)) > 3:
            run.faults.append(f"trial {trial.number} is a retry too many")
    check_asked(run, folder, workers, figures)
    check_answers(run, definition, study)


def check_asked(run: Run, folder: Path, workers: Workers, figures: Figures) -> None:
    """Every question of a set once; but in the last call of a worker that was killed, again."""
    asked: Counter[tuple[str, int]] = Counter()
    in_flight: Counter[tuple[str, int]] = Counter()
    for number in range(workers.started):
        for log in (folder / "asked" / str(number)).glob("*.log"):
            lines = [line.split(" ") for line in log.read_text().splitlines()]
            for call, start, stop, layers in lines:
                if not layers or len(layers.split(",")) > MOST_LAYERS:
                    # Base and donor, which each worker may look at in the end.
                    continue
                parts = [(layers, question) for question in range(int(start), int(stop))]
                asked.update(parts)
                if number in workers.killed and call == lines[-1][0]:
                    in_flight.update(parts)
    figures.questions = len(asked)
    figures.again = asked.total() - len(asked)
    twice: dict[str, int] = defaultdict(int)
    for part, count in asked.items():
        if count - 1 > in_flight[part]:
            twice[part[0]] += 1
    for layers, count in twice.items():
        run.faults.append(f"{count} questions of {layers} were evaluated twice without a kill")


def check_answers(run: Run, definition: StudyDefinition, study: optuna.Study) -> None:
    """The leaderboard equals that of one undisturbed worker on the same sets."""
    truth = Landscape.load(LANDSCAPE)
    scorer = StratifiedScore(strata=truth.order.subject, weights=truth.order.weights)
    found = leaderboard(definition, read_records(study.get_trials(deepcopy=False)))
    calm = optuna.create_study(direction="maximize")
    claims = Claims(calm, truth.n_layers, "calm")
    for row in sorted(found, key=lambda row: row.trial):
        layers = next(s for s in truth.index if list(s.indices) == row.layers)
        [claim] = claims.take([Proposal(layers, Phase.explore, Goal.race)])
        claim.answers = truth.answers[truth.index[layers], : row.questions]
        whole = row.questions == truth.order.n_full
        claims.tell([Told(claim, scorer.interval(claim.answers), over=True, full=whole)])
    calm_rows = leaderboard(definition, read_records(calm.get_trials(deepcopy=False)))
    mine, theirs = ([{**asdict(r), "trial": 0} for r in rows] for rows in (found, calm_rows))
    if mine != theirs:
        differ = sum(a != b for a, b in zip(mine, theirs, strict=False))
        run.faults.append(f"{differ} rows of the leaderboard differ from the undisturbed one")
    for record in read_records(study.get_trials(deepcopy=False)):
        if record.is_evaluated and record.answers is not None:
            recorded = truth.answers[truth.index[record.layers], : record.questions]
            if not np.array_equal(record.answers, recorded):
                run.faults.append(f"trial {record.number}: stored answers are not the recorded")


# ------------------------------------------------------------------ runs


@contextlib.contextmanager
def database(kind: type[Server] | None, folder: Path) -> Iterator[tuple[str, Server | None]]:
    """A URL and, where there is one, its server."""
    if kind is None:
        yield f"sqlite:///{folder / 'optuna.db'}", None
        return
    with kind() as server, server.database() as url:
        yield url, server


def perform(run: Run, kind: type[Server] | None) -> Figures:
    """One run from start to checks; its faults are in `run.faults`."""
    with tempfile.TemporaryDirectory() as name, database(kind, Path(name)) as (url, server):
        workers, figures = search(run, url, server, Path(name))
        check(run, url, Path(name), workers, figures)
    return figures


def write(path: Path, rows: list[tuple[Run, Figures]]) -> None:
    """The table as Markdown."""
    labels: dict[str, Any] = {
        "workers": lambda r, f: r.workers,
        "of these known by heartbeats alone": lambda r, f: r.elsewhere,
        "seconds": lambda r, f: f"{f.seconds:.0f}",
        "workers killed (kill -9)": lambda r, f: f.kills,
        "database server away, seconds": lambda r, f: f"{r.outage:.0f}" if r.outage else "",
        "workers that said they wait": lambda r, f: f.waited or "",
        "seconds from its return to the next result": lambda r, f: (
            f"{f.back:.1f}" if r.outage else ""
        ),
        "trials": lambda r, f: f.trials,
        "trials lost with a worker, and queued again": lambda r, f: f.lost,
        "layer sets": lambda r, f: f.layer_sets,
        "layer sets given up": lambda r, f: f.given_up,
        "questions of layer sets": lambda r, f: f"{f.questions:,}",
        "of these evaluated again, in flight at a kill": lambda r, f: f.again,
        "faults found": lambda r, f: len(r.faults),
    }
    lines = ["# Many workers, one database: what a search survives", ""]
    lines += [
        f"Made by `scripts/bench_reliability.py` on {os.cpu_count()} CPU cores, Python "
        f"{platform.python_version()}; the demo's landscape is replayed. A fault would be: a study "
        "that does not finish, a worker that fails, a trial left running or waiting, a question "
        "evaluated twice that was not in flight at a kill, an answer that is not the recorded one, "
        "or a row of the leaderboard that differs from that of one undisturbed worker on the same "
        "sets.",
        "",
        "| | " + " | ".join(run.name for run, _ in rows) + " |",
        "|---|" + "---|" * len(rows),
    ]
    for label, show in labels.items():
        lines.append(f"| {label} | " + " | ".join(str(show(r, f)) for r, f in rows) + " |")
    for run, _ in rows:
        lines += [f"- {run.name}: {fault.splitlines()[0]}" for fault in run.faults]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Do the runs and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=300.0, help="of the runs with kills")
    parser.add_argument("--outage", type=float, default=20.0)
    parser.add_argument("--only", choices=["sqlite", "postgresql", "outage"], action="append")
    options = parser.parse_args()
    seconds, sets = options.seconds, max(60, int(4 * options.seconds))
    short, fewer = min(90.0, seconds), min(300, sets)
    apart = 8 if os.getuid() == 0 else 0
    planned: list[tuple[str, Run, type[Server] | None]] = [
        ("sqlite", Run("SQLite, kills", 8, seconds, sets, kill_every=3.0), None),
        ("postgresql", Run("PostgreSQL, kills", 32, seconds, sets, 3.0, apart), Postgres),
        ("outage", Run("PostgreSQL away", 8, short, fewer, outage=options.outage), Postgres),
        ("outage", Run("MariaDB away", 8, short, fewer, outage=options.outage), MariaDB),
    ]
    rows = []
    for group, run, kind in planned:
        if options.only is None or group in options.only:
            figures = perform(run, kind)
            rows.append((run, figures))
            print(run.name, figures, run.faults[:5], flush=True)
            if options.out is not None:
                write(options.out / "reliability.md", rows)
    sys.exit(any(run.faults for run, _ in rows))


if __name__ == "__main__":
    main()
