"""Leaderboard and status: what the trials of a study say, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

from optlayers.config.study import Fidelity, StudyDefinition
from optlayers.layerset import Labels
from optlayers.search import Phase, phase_of
from optlayers.trials import keys
from optlayers.trials.cost import Cost, cost_of
from optlayers.trials.record import Record
from optlayers.trials.records import ranked, read_records

_NAMES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class LeaderboardRow:
    """One layer set of a leaderboard: its rank, and the record that its score comes from.

    layers: indices, or with several donors texts such as 7@b. cost: see `Cost`; None where the
    study counts layers. Score and interval are shares of right answers (0 to 1).
    """

    rank: int
    record: Record
    layers: Labels
    cost: float | None = None

    @property
    def n_layers(self) -> int:
        """Number of layers from donors."""
        return len(self.record.layers)

    @property
    def score(self) -> float:
        """Share of right answers."""
        return float(self.record.score or 0.0)

    @property
    def ci_low(self) -> float:
        """Lower end of the 95 % interval."""
        return float(self.record.ci_low or 0.0)

    @property
    def ci_high(self) -> float:
        """Upper end of the 95 % interval; 1 where the trial stored none."""
        return float(1.0 if self.record.ci_high is None else self.record.ci_high)

    @property
    def questions(self) -> int:
        """Number of questions that the score rests on."""
        return int(self.record.questions or 0)

    @property
    def fidelity(self) -> Fidelity:
        """`full` for all questions of the study, else `fast`."""
        return "full" if self.record.is_full else "fast"

    @property
    def trial(self) -> int:
        """Number of the trial."""
        return self.record.number

    def to_dict(self) -> dict[str, Any]:
        """The row as plain data; `cost` only where the study counts something else than layers."""
        names = ("n_layers", "score", "ci_low", "ci_high", "questions", "fidelity", "trial")
        data = {"rank": self.rank, "layers": self.layers}
        data |= {name: getattr(self, name) for name in names}
        return data if self.cost is None else {**data, "cost": self.cost}


@dataclass(frozen=True)
class Status:
    """Where a study stands; `expected` estimates the question evaluations of the whole."""

    study: str
    phase: str
    trials: dict[str, int]
    distinct_layer_sets: int
    question_evaluations: int
    best: LeaderboardRow | None
    expected: int
    best_of_size: list[LeaderboardRow]

    def to_dict(self) -> dict[str, Any]:
        """The status as plain data, as `status --json` prints it."""
        return {
            "study": self.study,
            "phase": self.phase,
            "trials": self.trials,
            "distinct_layer_sets": self.distinct_layer_sets,
            "question_evaluations": self.question_evaluations,
            "best": self.best.to_dict() if self.best else None,
        }


def leaderboard(
    definition: StudyDefinition, records: Sequence[Record], cost: Cost | None = None
) -> list[LeaderboardRow]:
    """Every evaluated layer set of the budget with its cost, in the order of `ranked`."""
    return [
        LeaderboardRow(
            rank=rank,
            record=record,
            layers=record.layers.labels(definition.donor_names),
            cost=None if cost is None or cost.table is None else cost.of(record.layers),
        )
        for rank, record in enumerate(ranked(definition, records), start=1)
    ]


def best_of_size(rows: Sequence[LeaderboardRow]) -> list[LeaderboardRow]:
    """The first row of each number of layers, few layers first."""
    best: dict[int, LeaderboardRow] = {}
    for row in rows:
        best.setdefault(row.n_layers, row)
    return [best[size] for size in sorted(best)]


def front(rows: Sequence[LeaderboardRow]) -> list[LeaderboardRow]:
    """The rows of which none is better at no more cost, cheap ones first.

    Of each cost the first of the leaderboard counts: a full one, where there is any.
    """
    of_cost: dict[float, LeaderboardRow] = {}
    for row in rows:
        of_cost.setdefault(row.n_layers if row.cost is None else row.cost, row)
    found: list[LeaderboardRow] = []
    for _, row in sorted(of_cost.items()):
        if not found or row.score > found[-1].score:
            found.append(row)
    return found


def status(definition: StudyDefinition, study: optuna.Study) -> Status:
    """Where the study stands, from its trials alone."""
    trials = study.get_trials(deepcopy=False)
    attrs = study.user_attrs
    counts = dict.fromkeys(_NAMES.values(), 0)
    for trial in trials:
        counts[_NAMES[trial.state]] += 1
    records = read_records(trials)
    rows = leaderboard(definition, records, cost_of(definition, attrs))
    n_layers = attrs.get(keys.N_LAYERS)
    phase = "starting"
    if n_layers is not None:
        phase = phase_of(definition, n_layers, records).value
    done = sum(record.evaluated for record in records)
    evaluated = {record.layers for record in records if record.is_evaluated}
    return Status(
        study=definition.name,
        phase=phase,
        trials=counts,
        distinct_layer_sets=len(evaluated),
        question_evaluations=done,
        best=rows[0] if rows else None,
        expected=max(done, _expected(definition, attrs)) if phase != Phase.done else done,
        best_of_size=best_of_size(rows),
    )


def _expected(definition: StudyDefinition, attrs: dict[str, Any]) -> int:
    """A guess at the question evaluations of the whole study, for the time left."""
    n_layers = int(attrs.get(keys.N_LAYERS, 0))
    fast, full = int(attrs.get(keys.N_FAST, 0)), int(attrs.get(keys.N_FULL, 0))
    if not n_layers:
        return 0
    explore, refine, most = definition.explore, definition.refine, definition.layers.max
    n_choices = n_layers * len(definition.donor_names)
    probes = 0 if definition.prior.single_layer_scores else n_choices
    near = (most * (n_choices - most) + n_choices) * refine.top * 0.7 * min(refine.rounds, 1)
    sets = probes + explore.population * explore.generations + near
    whole = (
        definition.validation.top
        + refine.verify * min(refine.rounds, 2)
        + 0.1 * (explore.population * explore.generations)
    )
    return int(sets * fast + whole * (full - fast))
