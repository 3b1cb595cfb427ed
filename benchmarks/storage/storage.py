"""What the storage costs a worker: per trial of 32 layers, and per proposal in a long study.

    python -m benchmarks.storage.storage --out benchmarks/storage

One worker runs a study of 32 layers with MMLU's 14,042 questions in 57 subjects on an evaluator
that answers at once; all time in calls of the storage is counted, reading what is new included.
Then the study is filled with 10,000 finished trials, and what a worker does between two cohorts is
timed: read what changed, and propose 16 sets. SQLite on this disk; PostgreSQL and MariaDB started
here, with their own settings (each commit reaches the disk). Beside each time stands the CPU time
of the worker itself, which other programs on the machine stretch less.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# As for one of several workers; threads of numpy that wait for each other would be measured else.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from optuna.trial import TrialState

from benchmarks.lib import program
from benchmarks.lib.servers import MariaDB, Postgres
from optlayers.config.study import StudyDefinition, parse_study
from optlayers.evaluation.base import Evaluator, Judged
from optlayers.evaluation.questions import QuestionOrder, Subject, order_questions
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search import RacingPruner, search_space
from optlayers.search.logprobs import note_rung
from optlayers.search.rungs import Outcome
from optlayers.storage.connect import open_study
from optlayers.storage.retry import RetryPolicy
from optlayers.storage.store import NewTrial, store_of
from optlayers.trials import keys
from optlayers.trials.record import Halves, Record
from optlayers.workers.queue import Claim
from optlayers.workers.worker import Worker

N_LAYERS, QUESTIONS, SUBJECTS = 32, 14_042, 57
STUDY = """
name: measured
base: {model: b}
donor: {model: d}
layers: {min: 1, max: 4}
tasks: [{name: t}]
questions: {fast: 20}
explore: {population: 40, generations: 500, patience: 240}
"""


def definition() -> StudyDefinition:
    """As `studies/full.yaml`, but endless."""
    return parse_study(STUDY, "measured.yaml", Path())


class Instant(Evaluator):
    """Answers at once: a set's skill grows with its size, and luck does the rest."""

    n_layers = N_LAYERS

    def __init__(self) -> None:
        sizes = [QUESTIONS // SUBJECTS + (i < QUESTIONS % SUBJECTS) for i in range(SUBJECTS)]
        subjects = [Subject(f"s{i}", size, size / QUESTIONS) for i, size in enumerate(sizes)]
        self.order: QuestionOrder = order_questions(subjects, definition().questions)

    def row(self, layers: LayerSet) -> NDArray[np.bool_]:
        """All answers of a set."""
        rng = np.random.default_rng([7, *layers])
        found: NDArray[np.bool_] = rng.random(QUESTIONS) < 0.3 + 0.01 * sum(layers) / N_LAYERS
        return found

    def evaluate(
        self, layer_sets: Sequence[LayerSet], start: int, stop: int
    ) -> list[NDArray[np.bool_]]:
        """Right or wrong [stop - start] of each set."""
        return [self.row(layers)[start:stop] for layers in layer_sets]

    def judge(self, layer_sets: Sequence[LayerSet], start: int, stop: int) -> list[Judged]:
        """The same, with log-probabilities of the fast questions."""
        if stop > self.order.n_fast:
            return [Judged(answers) for answers in self.evaluate(layer_sets, start, stop)]
        return [Judged(self.row(s)[start:stop], self.logs(s)[start:stop]) for s in layer_sets]

    def logs(self, layers: LayerSet) -> NDArray[np.float64]:
        """Log-probabilities of the right choices of the fast questions."""
        found: NDArray[np.float64] = np.where(self.row(layers)[: self.order.n_fast], -0.5, -2.0)
        return found


class Clock:
    """Sums the time, and this process's CPU time, of the outermost storage calls."""

    def __init__(self) -> None:
        self.seconds, self.cpu, self.depth = 0.0, 0.0, 0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Count while this lasts."""
        real = RetryPolicy.call
        clock = self

        def timed(self: RetryPolicy, function: Callable[[], Any], **options: Any) -> Any:
            clock.depth += 1
            began, cpu = time.perf_counter(), time.process_time()
            try:
                return real(self, function, **options)
            finally:
                clock.depth -= 1
                if not clock.depth:
                    clock.seconds += time.perf_counter() - began
                    clock.cpu += time.process_time() - cpu

        RetryPolicy.call = timed  # type: ignore[assignment]
        try:
            yield
        finally:
            RetryPolicy.call = real  # type: ignore[method-assign]


def worker_at(url: str, cohort: int, evaluator: Instant) -> Worker:
    """A worker of the endless study."""
    study = open_study(url, definition(), pruner=RacingPruner(top_k=3))
    return Worker(definition(), study, evaluator, cohort=cohort)


def trial_cost(url: str, cohort: int, trials: int) -> tuple[float, float, float]:
    """Milliseconds of storage, its CPU time, and the CPU time of all else, for a trial."""
    worker = worker_at(url, cohort, Instant())
    clock, told = Clock(), 0
    with clock.watching():
        began = time.process_time()
        while told < trials:
            held = worker._claim()
            worker._evaluate(held)
            told += len(held)
        whole = time.process_time() - began
    rest = whole - clock.cpu
    return 1000 * clock.seconds / told, 1000 * clock.cpu / told, 1000 * rest / told


def fill(worker: Worker, evaluator: Instant, trials: int) -> None:
    """Finished trials of distinct sets, as explore leaves them; one in ten in full."""
    rng = np.random.default_rng(0)
    space = LayerSpace(n_layers=N_LAYERS, min_layers=1, max_layers=4)
    study, seen = worker.study, {r.layers.indices for r in worker._records()}
    begun = len(seen)
    while len(seen) < trials:
        sets: list[LayerSet] = []
        while len(sets) < 200 and len(seen) < trials:
            layers = space.random_unseen(rng, seen)
            assert layers is not None
            seen.add(layers.indices)
            sets.append(layers)
        generation = (len(seen) - begun) // 40
        wanted = [
            NewTrial(
                LayerSpace(N_LAYERS).params(s),
                search_space(LayerSpace(N_LAYERS)),
                {
                    keys.LAYERS: str(s),
                    keys.PHASE: "explore",
                    keys.GOAL: "race",
                    keys.GENERATION: generation,
                    keys.WORKER: "elsewhere:1:1",
                    keys.DEVICE: "cpu",
                },
            )
            for s in sets
        ]
        made = store_of(study).insert_running(wanted, unique=keys.LAYERS)
        cohort = []
        for number, (layers, found) in enumerate(zip(sets, made, strict=True)):
            assert found is not None
            full = number % 10 == 0
            n = QUESTIONS if full else evaluator.order.n_fast
            answers = evaluator.row(layers)[:n]
            record = Record(found, TrialState.RUNNING, layers)
            halves: dict[int, Halves] = {}
            begin = 0
            for rung in [step for step in worker.rungs.steps if step <= n]:
                if rung <= evaluator.order.n_fast:
                    logs, weights = evaluator.logs(layers)[begin:rung], evaluator.order.fast_weights
                    halves = note_rung(halves, answers[:rung], begin, logs, weights)
                    begin = rung
                record = worker.rungs.at(record, answers[:rung], 0, halves)
            cohort.append((Claim(record), Outcome.COMPLETE if full else Outcome.PAUSE))
        worker.queue.commit(cohort)


def proposal_cost(url: str, trials: int, repeats: int) -> dict[str, float]:
    """Milliseconds of what a worker does between two cohorts, in a study of that many trials."""
    evaluator = Instant()
    filling = worker_at(url, 16, evaluator)
    fill(filling, evaluator, trials)
    worker = worker_at(url, 16, evaluator)
    began = time.perf_counter()
    worker._records()
    first = 1000 * (time.perf_counter() - began)
    reads: list[float] = []
    plans: list[float] = []
    cpus: list[float] = []
    judged: list[float] = []
    for _ in range(repeats):
        # Others finish a cohort in between.
        held = filling._claim()
        began = time.process_time()
        filling._evaluate(held)
        judged.append(1000 * (time.process_time() - began) / len(held))
        began, cpu = time.perf_counter(), time.process_time()
        records = worker._records()
        read = time.perf_counter()
        found = worker._plan(records)
        plans.append(1000 * (time.perf_counter() - read))
        reads.append(1000 * (read - began))
        cpus.append(1000 * (time.process_time() - cpu))
        assert len(found.proposals) == 16
    return {
        "first read": first,
        "read": statistics.median(reads),
        "propose 16": statistics.median(plans),
        "cpu": statistics.median(cpus),
        "slowest": max(a + b for a, b in zip(reads, plans, strict=True)),
        "judged": statistics.median(judged),
    }


def measure(name: str, url_of: Callable[[], Any], trials: int, full: int) -> dict[str, Any]:
    """All figures of one database."""
    row: dict[str, Any] = {"database": name}
    for cohort in (1, 16):
        with url_of() as url:
            names = [f"{part}, cohort {cohort}" for part in ("trial", "cpu", "rest")]
            row |= dict(zip(names, trial_cost(url, cohort, trials), strict=True))
    with url_of() as url:
        row |= proposal_cost(url, full, 15)
    print(json.dumps(row), flush=True)
    return row


@contextlib.contextmanager
def sqlite_url() -> Iterator[str]:
    """A database in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite:///{folder}/optuna.db"


def main() -> None:
    """Measure and write the table."""
    parser = program.parser(__doc__)
    parser.add_argument("--trials", type=int, default=160)
    parser.add_argument("--finished", type=int, default=10_000)
    parser.add_argument("--only", choices=["sqlite", "postgresql", "mariadb"])
    options = parser.parse_args()
    rows = []
    if options.only in (None, "sqlite"):
        rows.append(measure("SQLite", sqlite_url, options.trials, options.finished))
    for name, kind in (("PostgreSQL", Postgres), ("MariaDB", MariaDB)):
        if options.only in (None, name.lower()):
            with kind() as server:
                rows.append(measure(name, server.database, options.trials, options.finished))
    text = written(rows, options.trials, options.finished)
    program.save(options.out, "storage.md", text)


def written(rows: list[dict[str, Any]], trials: int, finished: int) -> str:
    """The table as Markdown."""
    lines = [
        "# The storage: what it costs a worker",
        "",
        f"{program.made_by(__file__)} on {os.cpu_count()} CPU cores, Python "
        f"{platform.python_version()}. Milliseconds.",
        "",
        f"A trial of {N_LAYERS} layers and up to {QUESTIONS:,} questions, mean of {trials}: all "
        "calls of the storage, from claim to result, and the reading of what others did. Between "
        f"two cohorts in a study of {finished:,} finished trials: read what changed and propose 16 "
        "sets, medians of 15.",
        "",
        "| | " + " | ".join(r["database"] for r in rows) + " |",
        "|---|" + "---|" * len(rows),
    ]
    for key, label in (
        ("trial, cohort 1", "a trial, alone"),
        ("cpu, cohort 1", "of that, the worker's own CPU"),
        ("trial, cohort 16", "a trial, in cohorts of 16"),
        ("cpu, cohort 16", "of that, the worker's own CPU"),
        ("rest, cohort 16", "CPU of all else that the worker does, a trial in cohorts of 16"),
        ("read", f"{finished:,} trials: read what changed"),
        ("propose 16", f"{finished:,} trials: propose 16 sets"),
        ("cpu", f"{finished:,} trials: both, the worker's own CPU"),
        ("slowest", f"{finished:,} trials: both, the slowest of 15"),
        ("judged", f"{finished:,} trials: CPU to evaluate, race and tell a set"),
        ("first read", f"{finished:,} trials: the first read of a worker that joins"),
    ):
        lines.append(f"| {label} | " + " | ".join(f"{r[key]:.1f}" for r in rows) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
