"""Record: one trial of a study, as its attributes store it and as everything else reads it.

Only this module converts records to the user attributes of trials (`keys`) and back.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from optlayers.errors import InputError
from optlayers.layerset import AT, BASE, ONE, Donors, LayerSet, LayerSpace, param_name
from optlayers.trials import keys
from optlayers.trials.answers import Answers, decode_answers

# A system attribute that the sampler of optlayers 0.1 wrote.
_GENERATION = "PatternGASampler:generation"
# The types of attributes, as workers store them.
_KINDS: Mapping[str, Any] = {
    **dict.fromkeys((keys.PHASE, keys.GOAL, keys.FIDELITY), str),
    **dict.fromkeys((keys.WORKER, keys.REASON, keys.ANSWERS), str),
    **dict.fromkeys((keys.QUESTIONS, keys.EVALUATED, keys.START), int),
    **dict.fromkeys((keys.GENERATION, keys.ROUND), int),
    **dict.fromkeys((keys.SCORE, keys.CI_LOW, keys.CI_HIGH), int | float),
    keys.HALVES: list,
}


class Halves(NamedTuple):
    """Means over the even and the odd of some first questions: right answers, log-probabilities."""

    right: tuple[float, float]
    logs: tuple[float, float]


@dataclass(frozen=True)
class Record:
    """One trial, reduced to what the search needs.

    questions: how many `score` rests on (None where plain Optuna code does not say). score: None
    until something was reported. phase, goal, fidelity: empty for trials of plain Optuna code.
    start: the questions that a resumed set had answered already. evaluated: those that this trial
    itself answered. intermediate, halves: by the number of questions.
    """

    number: int
    state: TrialState
    layers: LayerSet
    phase: str = ""
    goal: str = ""
    questions: int | None = None
    score: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    fidelity: str = ""
    evaluated: int = 0
    generation: int | None = None
    round: int | None = None
    start: int = 0
    worker: str = ""
    reason: str = ""
    packed_answers: str = field(default="", repr=False)
    intermediate: Mapping[int, float] = field(default_factory=dict, repr=False, hash=False)
    halves: Mapping[int, Halves] = field(default_factory=dict, repr=False, hash=False)

    # Cached because proposals ask thousands of times.
    @cached_property
    def is_claimed(self) -> bool:
        """Whether it is RUNNING or WAITING."""
        return self.state in (TrialState.RUNNING, TrialState.WAITING)

    @cached_property
    def is_evaluated(self) -> bool:
        """Whether it ended with a finite score (COMPLETE or PRUNED)."""
        return (
            self.state in (TrialState.COMPLETE, TrialState.PRUNED)
            and self.score is not None
            and math.isfinite(self.score)
        )

    @cached_property
    def is_full(self) -> bool:
        """Whether it was evaluated on all questions (a plain trial: whether it is COMPLETE)."""
        if not self.is_evaluated:
            return False
        return self.fidelity == "full" or (not self.fidelity and self.state == TrialState.COMPLETE)

    @cached_property
    def first_score(self) -> float | None:
        """The score at the first rung, which every trial of a study reaches."""
        return self.intermediate[min(self.intermediate)] if self.intermediate else self.score

    @cached_property
    def answers(self) -> Answers | None:
        """The answers to the first `questions` questions, or None."""
        if not self.packed_answers or self.questions is None:
            return None
        return decode_answers(self.packed_answers, self.questions)


# ------------------------------------------------------------------------------------- writing


def search_space(space: LayerSpace) -> dict[str, BaseDistribution]:
    """The distributions of a trial's parameters: `layer_00` ... in base or donors."""
    values = CategoricalDistribution((BASE, *space.donors))
    return {param_name(i): values for i in range(space.n_layers)}


def claim_attrs(record: Record, space: LayerSpace) -> dict[str, Any]:
    """The attributes that a trial stores when a worker claims its layer set."""
    optional = {
        keys.GENERATION: record.generation,
        keys.ROUND: record.round,
        keys.START: record.start or None,
        keys.WORKER: record.worker or None,
    }
    return {
        keys.LAYERS: space.text(record.layers),
        keys.SIZE: len(record.layers),
        keys.SET: space.sort_text(record.layers),
        keys.PHASE: record.phase,
        keys.GOAL: record.goal,
        **{key: value for key, value in optional.items() if value is not None},
    }


def result_attrs(record: Record) -> dict[str, Any]:
    """The attributes that a trial stores at a rung, with its score once it has ended."""
    attrs: dict[str, Any] = {
        keys.ANSWERS: record.packed_answers,
        keys.QUESTIONS: record.questions,
        keys.EVALUATED: record.evaluated,
    }
    if record.halves:
        attrs[keys.HALVES] = [[n, *h.right, *h.logs] for n, h in sorted(record.halves.items())]
    if record.state.is_finished():
        attrs |= {
            keys.SCORE: record.score,
            keys.CI_LOW: record.ci_low,
            keys.CI_HIGH: record.ci_high,
            keys.FIDELITY: record.fidelity,
        }
    if record.reason:
        attrs[keys.REASON] = record.reason
    return attrs


# ------------------------------------------------------------------------------------- reading


def space_in(attrs: Mapping[str, Any]) -> LayerSpace:
    """The layers and donors of a study, by its user attributes."""
    return LayerSpace(attrs.get(keys.N_LAYERS), donors=tuple(attrs.get(keys.DONORS, ONE)))


def read_record(trial: FrozenTrial) -> Record | None:
    """One trial as a record, or None where it has no layer set."""
    layers = _layers_of(trial)
    if layers is None:
        return None
    # Of other types they are another program's.
    attrs = {k: v for k, v in trial.user_attrs.items() if isinstance(v, _KINDS.get(k, object))}
    intermediate = trial.intermediate_values
    last = max(intermediate) if intermediate else None
    score = attrs.get(keys.SCORE)
    if score is None and trial.state != TrialState.FAIL:
        values = trial.values
        score = values[0] if values else intermediate[last] if last is not None else None
    generation = attrs.get(keys.GENERATION)
    if generation is None:
        generation = trial.system_attrs.get(_GENERATION)
    return Record(
        number=trial.number,
        state=trial.state,
        layers=layers,
        phase=attrs.get(keys.PHASE, ""),
        goal=attrs.get(keys.GOAL, ""),
        questions=attrs.get(keys.QUESTIONS, last),
        score=score,
        ci_low=attrs.get(keys.CI_LOW),
        ci_high=attrs.get(keys.CI_HIGH),
        fidelity=attrs.get(keys.FIDELITY, ""),
        evaluated=attrs.get(keys.EVALUATED, 0),
        generation=generation,
        round=attrs.get(keys.ROUND),
        start=attrs.get(keys.START, 0),
        worker=attrs.get(keys.WORKER, ""),
        reason=attrs.get(keys.REASON, ""),
        packed_answers=attrs.get(keys.ANSWERS, ""),
        intermediate=intermediate,
        halves={
            int(n): Halves((first, second), (third, fourth))
            for n, first, second, third, fourth in attrs.get(keys.HALVES, ())
        },
    )


def read_records(trials: Iterable[FrozenTrial]) -> list[Record]:
    """Trials as records, by trial number; trials without a layer set are left out."""
    return RecordReader().read(trials)


class RecordReader:
    """Reads the trials of a study repeatedly; a finished trial never changes and is read once.

    Safe to share between threads (at worst a trial is read twice) and between studies.
    """

    def __init__(self) -> None:
        # The times tell apart trials of one number in different studies.
        self._finished: dict[int, tuple[Any, Any, Record | None]] = {}

    def read(self, trials: Iterable[FrozenTrial]) -> list[Record]:
        """Trials as records, by trial number; trials without a layer set are left out."""
        finished = self._finished
        found: list[Record] = []
        for trial in trials:
            begun, ended = trial.datetime_start, trial.datetime_complete
            known = finished.get(trial.number)
            record: Record | None
            if known is not None and known[0] == begun and known[1] == ended:
                record = known[2]
            else:
                record = read_record(trial)
                if trial.state.is_finished():
                    finished[trial.number] = (begun, ended, record)
            if record is not None:
                found.append(record)
        found.sort(key=lambda record: record.number)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"_finished": {}}


def _layers_of(trial: FrozenTrial) -> LayerSet | None:
    """The layer set of a trial; the attribute is faster to read than the parameters."""
    text = trial.user_attrs.get(keys.LAYERS)
    if isinstance(text, str):
        try:
            return _parsed(text, _donors_of(trial) if AT in text else ONE)
        except InputError:
            return None
    params: Mapping[str, Any] = trial.params or trial.system_attrs.get("fixed_params", {})
    if not any(name.startswith("layer_") for name in params):
        return None
    return LayerSpace(donors=_donors_of(trial)).from_params(params)


@functools.lru_cache(maxsize=100_000)
def _parsed(text: str, donors: Donors) -> LayerSet:
    return LayerSpace(donors=donors).parse(text)


def _donors_of(trial: FrozenTrial) -> Donors:
    """The names of the donors, by the distributions of the trial's parameters."""
    for name, distribution in trial.distributions.items():
        if name.startswith("layer_") and isinstance(distribution, CategoricalDistribution):
            return tuple(str(choice) for choice in distribution.choices if choice != BASE)
    return ONE
