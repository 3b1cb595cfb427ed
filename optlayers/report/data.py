"""What a report holds: a study's trials, gathered once into plain frozen values."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from optlayers import holdout, references
from optlayers.holdout import HeldOut
from optlayers.leaderboard import Row, leaderboard
from optlayers.leaderboard import status as read_status
from optlayers.references import Reference
from optlayers.report.baselines import Baseline
from optlayers.report.course import Course, Generation, course, generations
from optlayers.report.effects import Effects, effects
from optlayers.report.progress import Funnel, Savings, funnel, savings
from optlayers.search import Record, best_by_layers, keys, paired_difference, read_records
from optlayers.search.statistics import spearman
from optlayers.study import StudyDefinition
from optlayers.worklog import WorkerState, read_workers

ALPHA = 0.05


@dataclass(frozen=True)
class Entry:
    """A row of the leaderboard, and how it compares with the first on the same questions.

    `behind` is the paired difference to the first (0 or less, mostly), `p_value` the chance of as
    large a one between equals; None where answers are not stored. `tied`: p above 0.05.
    """

    row: Row
    phase: str
    behind: float | None = None
    p_value: float | None = None
    tied: bool = False


@dataclass(frozen=True)
class Subject:
    """One subject: how many questions, its weight, and the shares of right answers."""

    name: str
    questions: int
    weight: float
    winner: float
    base: float | None
    donor: float | None


@dataclass(frozen=True)
class FastFull:
    """Fast and full score of one layer set."""

    layers: list[int]
    fast: float
    full: float


@dataclass(frozen=True)
class Report:
    """Everything that a report shows of a study."""

    name: str
    phase: str
    made: str
    definition: dict[str, Any]
    fingerprint: str
    n_layers: int
    n_fast: int
    n_full: int
    trials: dict[str, int]
    entries: list[Entry]
    references: dict[str, Reference]
    held_out: list[HeldOut]
    effects: Effects | None
    generations: list[Generation]
    course: Course
    baselines: list[Baseline]
    funnel: Funnel
    savings: Savings
    fast_full: list[FastFull]
    rank_correlation: float | None
    subjects: list[Subject]
    workers: list[WorkerState]

    @property
    def best(self) -> Entry | None:
        """The first of the leaderboard."""
        return self.entries[0] if self.entries else None

    @property
    def full(self) -> list[Entry]:
        """The entries that rest on all questions."""
        return [entry for entry in self.entries if entry.row.fidelity == "full"]

    @property
    def front(self) -> list[Entry]:
        """The Pareto front of score and few layers, few layers first.

        Of each size the first of the leaderboard counts: a full one, where there is any.
        """
        of_size: dict[int, Entry] = {}
        for entry in self.entries:
            of_size.setdefault(entry.row.n_layers, entry)
        found: list[Entry] = []
        for _, entry in sorted(of_size.items()):
            if not found or entry.row.score > found[-1].row.score:
                found.append(entry)
        return found


def gather(
    definition: StudyDefinition, study: optuna.Study, baselines: Sequence[Baseline] = ()
) -> Report:
    """The report of a study as it stands now, finished or not."""
    trials = study.get_trials(deepcopy=False)
    attrs = study.user_attrs
    records = read_records(trials)
    n_layers = int(attrs.get(keys.N_LAYERS, 0))
    n_fast, n_full = int(attrs.get(keys.N_FAST, 0)), int(attrs.get(keys.N_FULL, 0))
    strata = np.asarray(attrs.get(keys.QUESTION_STRATA, []), dtype=np.int64)
    weights = np.asarray(attrs.get(keys.SUBJECT_WEIGHTS, []), dtype=np.float64)
    rows = leaderboard(definition, records)
    known = {record.number: record for record in best_by_layers(records).values()}
    state = read_status(definition, study)
    pairs = _fast_full(known.values(), n_fast)
    rho = spearman(np.array([p.fast for p in pairs]), np.array([p.full for p in pairs]))
    workers = read_workers(attrs)
    refs = references.results(attrs)
    return Report(
        name=definition.name,
        phase=state.phase,
        made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        definition=definition.to_dict(),
        fingerprint=definition.fingerprint(),
        n_layers=n_layers,
        n_fast=n_fast,
        n_full=n_full,
        trials=state.trials,
        entries=_entries(rows, known, strata, weights),
        references=refs,
        held_out=holdout.results(study, definition, records, n_layers),
        effects=effects(records, n_layers),
        generations=generations(records, n_layers),
        course=course(trials, records, n_full),
        baselines=list(baselines),
        funnel=funnel(records),
        savings=savings(records, workers, n_full),
        fast_full=pairs,
        rank_correlation=None if np.isnan(rho) else float(rho),
        subjects=_subjects(attrs, rows, known, refs, strata, weights),
        workers=workers,
    )


def _entries(
    rows: Sequence[Row],
    known: dict[int, Record],
    strata: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> list[Entry]:
    """The rows with their difference to the first; only full ones can be tied with it."""
    found: list[Entry] = []
    first = known[rows[0].trial].answers if rows else None
    for row in rows:
        record = known[row.trial]
        entry = Entry(row, record.phase)
        if first is not None and row.fidelity == "full" and len(strata):
            answers = record.answers
            if row.rank == 1:
                entry = Entry(row, record.phase, 0.0, 1.0, True)
            elif answers is not None:
                against = paired_difference(answers, first, strata, weights)
                entry = Entry(
                    row,
                    record.phase,
                    against.difference,
                    against.p_value,
                    against.p_value > ALPHA,
                )
        found.append(entry)
    return found


def _fast_full(records: Any, n_fast: int) -> list[FastFull]:
    """Of the sets that answered all questions, the score on the fast ones beside it."""
    return [
        FastFull(list(r.layers.indices), float(r.intermediate[n_fast]), float(r.score))
        for r in sorted(records, key=lambda r: r.number)
        if r.is_full and n_fast in r.intermediate and r.score is not None
    ]


def _subjects(
    attrs: dict[str, Any],
    rows: Sequence[Row],
    known: dict[int, Record],
    refs: dict[str, Reference],
    strata: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> list[Subject]:
    """Per subject the winner, base and donor, on the questions that the winner answered."""
    answers = known[rows[0].trial].answers if rows else None
    names = attrs.get("subjects", [])
    if answers is None or not names:
        return []
    mine = strata[: len(answers)]
    found = []
    for number, name in enumerate(names):
        where = np.flatnonzero(mine == number)
        if not len(where):
            continue
        shares = {k: float(r.answers[where].mean()) for k, r in refs.items()}
        found.append(
            Subject(
                name=str(name),
                questions=len(where),
                weight=float(weights[number] / weights.sum()),
                winner=float(answers[where].mean()),
                base=shares.get("base"),
                donor=shares.get("donor"),
            )
        )
    return found
