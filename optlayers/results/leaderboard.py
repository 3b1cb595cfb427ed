"""Leaderboard and status: what the trials of a study say, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

from optlayers.config.study import Fidelity, StudyDefinition
from optlayers.layerset import Labels
from optlayers.search import Phase, plan, sampler_for
from optlayers.trials import keys
from optlayers.trials.cost import Cost, cost_of
from optlayers.trials.record import Record
from optlayers.trials.records import best_by_layers, read_records

_NAMES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class Row:
    """One layer set; score and interval are shares of right answers (0 to 1).

    layers: whole numbers, or with several donors texts such as 7@b. cost: where a study counts
    something other than layers; see `Cost`.
    """

    rank: int
    layers: Labels
    n_layers: int
    score: float
    ci_low: float
    ci_high: float
    questions: int
    fidelity: Fidelity
    trial: int
    cost: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The row as plain data; `cost` only where something other than layers is counted."""
        data = asdict(self)
        if self.cost is None:
            del data["cost"]
        return data


@dataclass(frozen=True)
class Status:
    """Where a study stands; `expected` estimates the question evaluations of the whole."""

    study: str
    phase: str
    trials: dict[str, int]
    distinct_layer_sets: int
    question_evaluations: int
    best: Row | None
    expected: int
    best_of_size: list[Row]

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


def _fits(record: Record, definition: StudyDefinition) -> bool:
    return definition.layers.min <= len(record.layers) <= definition.layers.max


def leaderboard(
    definition: StudyDefinition, records: Sequence[Record], cost: Cost | None = None
) -> list[Row]:
    """Every evaluated layer set of the budget, best first; with what it costs.

    Full evaluations come before fast ones: a score on few questions, best of many, flatters.
    Ties go to fewer layers.
    """
    found = [r for r in best_by_layers(records).values() if _fits(r, definition)]
    found.sort(key=lambda r: (not r.is_full, -(r.score or 0.0), len(r.layers), r.layers))
    return [
        Row(
            rank=rank,
            layers=record.layers.labels(definition.donor_names),
            n_layers=len(record.layers),
            score=float(record.score or 0.0),
            ci_low=float(record.ci_low or 0.0),
            ci_high=float(record.ci_high if record.ci_high is not None else 1.0),
            questions=int(record.questions or 0),
            fidelity="full" if record.is_full else "fast",
            trial=record.number,
            cost=None if cost is None or cost.table is None else cost.of(record.layers),
        )
        for rank, record in enumerate(found, start=1)
    ]


def best_of_size(rows: Sequence[Row]) -> list[Row]:
    """The first row of each number of layers, few layers first."""
    best: dict[int, Row] = {}
    for row in rows:
        best.setdefault(row.n_layers, row)
    return [best[size] for size in sorted(best)]


def front(rows: Sequence[Row]) -> list[Row]:
    """The rows of which none is better at no more cost, cheap ones first.

    Of each cost the first of the leaderboard counts: a full one, where there is any.
    """
    of_cost: dict[float, Row] = {}
    for row in rows:
        of_cost.setdefault(row.n_layers if row.cost is None else row.cost, row)
    found: list[Row] = []
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
        # For the phase alone; Optuna's own would be told the whole history first.
        light = "random" if definition.explore.sampler in ("tpe", "nsgaii") else None
        sampler = sampler_for(definition.exploring(light, None), n_layers, seed=definition.seed)
        found = plan(definition, n_layers, records, sampler, 1)
        phase = found.phase.value
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
