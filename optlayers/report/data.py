"""What a report holds: a study's trials, gathered once into plain frozen values."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from optlayers.config.study import StudyDefinition
from optlayers.layerset import BASE, DONOR, Donors, Labels, LayerSet
from optlayers.report.baselines import Baseline
from optlayers.report.course import Course, Generation, course, generations
from optlayers.report.effects import Effects, effects
from optlayers.report.progress import Failure, Funnel, Savings, failures, funnel, savings
from optlayers.results.comparisons import Evidence, evidence
from optlayers.results.heldout import HeldOut, held_out_scores
from optlayers.results.leaderboard import LeaderboardRow, front, leaderboard
from optlayers.results.leaderboard import status as read_status
from optlayers.trials import keys
from optlayers.trials.cost import Cost, cost_of
from optlayers.trials.record import Record, decode_answers
from optlayers.trials.records import best_by_layers, read_records
from optlayers.trials.statistics import StratifiedScore, spearman
from optlayers.trials.worker_state import WorkerState, read_workers

# Rows of the leaderboard whose evidence is gathered, beside all full ones.
COMPARED = 200


@dataclass(frozen=True)
class Entry:
    """A row of the leaderboard, where its set was proposed, and what speaks for it (if gathered).

    `evidence` holds the paired differences to the first, the next, base and donor, and the
    held-out score.
    """

    row: LeaderboardRow
    phase: str
    evidence: Evidence | None = None

    @property
    def behind(self) -> float | None:
        """The paired difference to the first: 0 or less, mostly."""
        if self.row.rank == 1:
            return 0.0
        found = self.evidence and self.evidence.to_best
        return found.difference if found else None

    @property
    def p_value(self) -> float | None:
        """The chance of as large a difference to the first between equals."""
        found = self.evidence and self.evidence.to_best
        return found.p_value if found else None

    @property
    def held_out(self) -> HeldOut | None:
        """Its score on held-out questions, where it has answered them."""
        return self.evidence.held_out if self.evidence else None

    @property
    def tied(self) -> bool:
        """Whether it is the first, or cannot be told from it."""
        return self.row.rank == 1 or bool(self.evidence and self.evidence.ties_with_best)


@dataclass(frozen=True)
class Reference:
    """Base or donor on all questions of the search; score and interval in [0, 1].

    name: base, donor, or the name of one of several donors; `called` for people.
    """

    name: str
    score: float
    ci_low: float
    ci_high: float
    questions: int
    answers: NDArray[np.bool_]

    @property
    def called(self) -> str:
        """`base`, `donor`, or `donor a`."""
        return self.name if self.name in (BASE, DONOR) else f"donor {self.name}"


@dataclass(frozen=True)
class Subject:
    """One subject: how many questions, its weight, and the shares of right answers.

    donor: of the first donor, where there are several.
    """

    name: str
    questions: int
    weight: float
    winner: float
    base: float | None
    donor: float | None


@dataclass(frozen=True)
class FastFull:
    """Fast and full score of one layer set."""

    layers: Labels
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
    donors: Donors
    cost: Cost
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
    failures: list[Failure]
    fast_full: list[FastFull]
    rank_correlation: float | None
    subjects: list[Subject]
    workers: list[WorkerState]

    @property
    def n_choices(self) -> int:
        """What a layer set chooses from: a layer of a donor each."""
        return self.n_layers * len(self.donors)

    def label(self, choice: int) -> str:
        """One choice: `7`, or with several donors `7@a`."""
        return LayerSet.of(choice).text(self.donors)

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
        """The Pareto front of score and cost, cheap ones first; see `leaderboard.front`."""
        by_rank = {entry.row.rank: entry for entry in self.entries}
        return [by_rank[row.rank] for row in front([entry.row for entry in self.entries])]

    def costs(self, row: LeaderboardRow) -> float:
        """What a row costs, in the unit of `cost.title`."""
        return self.cost.shown(float(row.n_layers) if row.cost is None else row.cost)


def gather(
    definition: StudyDefinition, study: optuna.Study, baselines: Sequence[Baseline] = ()
) -> Report:
    """The report of a study as it stands now, finished or not."""
    trials = study.get_trials(deepcopy=False)
    attrs = study.user_attrs
    records = read_records(trials)
    n_layers, donors = int(attrs.get(keys.N_LAYERS, 0)), definition.donor_names
    n_fast, n_full = int(attrs.get(keys.N_FAST, 0)), int(attrs.get(keys.N_FULL, 0))
    strata = np.asarray(attrs.get(keys.QUESTION_STRATA, []), dtype=np.int64)
    weights = np.asarray(attrs.get(keys.SUBJECT_WEIGHTS, []), dtype=np.float64)
    cost = cost_of(definition, attrs)
    rows = leaderboard(definition, records, cost)
    state = read_status(definition, study)
    pairs = _fast_full(best_by_layers(records).values(), n_fast, strata, weights, donors)
    rho = spearman(np.array([p.fast for p in pairs]), np.array([p.full for p in pairs]))
    workers = read_workers(attrs)
    refs = _references(attrs, donors, strata, weights)
    return Report(
        name=definition.name,
        phase=state.phase,
        made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        definition=definition.to_dict(),
        fingerprint=definition.fingerprint(),
        n_layers=n_layers,
        donors=donors,
        cost=cost,
        n_fast=n_fast,
        n_full=n_full,
        trials=state.trials,
        entries=_entries(study, rows),
        references=refs,
        held_out=held_out_scores(definition, attrs, records, n_layers),
        effects=effects(records, n_layers, len(donors)),
        generations=generations(records, n_layers * len(donors), donors),
        course=course(trials, records, n_fast, n_full, donors),
        baselines=list(baselines),
        funnel=funnel(records, n_fast),
        savings=savings(records, workers, n_full),
        failures=failures(records, donors),
        fast_full=pairs,
        rank_correlation=None if np.isnan(rho) else float(rho),
        subjects=_subjects(attrs, rows, refs, donors, strata, weights),
        workers=workers,
    )


def _entries(study: optuna.Study, rows: Sequence[LeaderboardRow]) -> list[Entry]:
    """The rows with what speaks for them."""
    full = sum(row.fidelity == "full" for row in rows)
    compared = rows[: max(full, COMPARED)]
    found: list[Evidence | None] = [*evidence(study, compared)]
    found += [None] * (len(rows) - len(compared))
    return [Entry(r, r.record.phase, e) for r, e in zip(rows, found, strict=True)]


def _references(
    attrs: dict[str, Any], donors: Donors, strata: NDArray[np.int64], weights: NDArray[np.float64]
) -> dict[str, Reference]:
    """Base and donor on the questions of the search, as far as they have answered them."""
    found = {}
    for name in (BASE, *donors):
        packed = attrs.get(keys.REFERENCE + name)
        if packed is not None and len(strata):
            answers = decode_answers(packed, len(strata))
            interval = StratifiedScore(strata=strata, weights=weights).interval(answers)
            found[name] = Reference(name, *interval, questions=len(answers), answers=answers)
    return found


def _fast_full(
    records: Iterable[Record],
    n_fast: int,
    strata: NDArray[np.int64],
    weights: NDArray[np.float64],
    donors: Donors,
) -> list[FastFull]:
    """Of the sets that answered all questions, the score on the fast ones beside it.

    From the answers: a trial that took a set further reports only what it asked itself.
    """
    if not n_fast or not len(strata):
        return []
    scale = StratifiedScore(strata=strata, weights=weights)
    return [
        FastFull(r.layers.labels(donors), scale.score(r.answers[:n_fast]), float(r.score))
        for r in sorted(records, key=lambda r: r.number)
        if r.is_full and r.answers is not None and r.score is not None
    ]


def _subjects(
    attrs: dict[str, Any],
    rows: Sequence[LeaderboardRow],
    refs: dict[str, Reference],
    donors: Donors,
    strata: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> list[Subject]:
    """Per subject the winner, base and donor, on the questions that the winner answered."""
    answers = rows[0].record.answers if rows else None
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
                donor=shares.get(donors[0]),
            )
        )
    return found
