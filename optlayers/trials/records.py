"""Reading trials as records, and what a set of records says about each layer set."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from optlayers.config.study import StudyDefinition
from optlayers.errors import InputError
from optlayers.layerset import AT, BASE, ONE, Donors, LayerSet, LayerSpace, param_name
from optlayers.trials import keys
from optlayers.trials.record import Halves, Record

# A system attribute that the sampler of optlayers 0.1 wrote.
GENERATION_KEY = "PatternGASampler:generation"

MAX_FAILURES = 3
MAX_HELD_OUT = 10  # layer sets that answer the held-out questions


def search_space(space: LayerSpace) -> dict[str, BaseDistribution]:
    """The distributions of a trial's parameters: `layer_00` ... in base or donors."""
    values = CategoricalDistribution((BASE, *space.donors))
    return {param_name(i): values for i in range(space.n_layers)}


def _layers_of(trial: FrozenTrial) -> LayerSet | None:
    """The layer set of a trial, or None where it has none (yet)."""
    text = trial.user_attrs.get(keys.LAYERS)
    if isinstance(text, str):
        try:
            return _parsed(text, _donors_of(trial) if AT in text else ONE)
        except InputError:
            return None
    params: Mapping[str, Any] = trial.params
    if not params:
        params = trial.system_attrs.get("fixed_params", {})
    if not any(name.startswith("layer_") for name in params):
        return None
    return LayerSet.from_params(params, _donors_of(trial))


@functools.lru_cache(maxsize=100_000)
def _parsed(text: str, donors: Donors) -> LayerSet:
    return LayerSet.parse(text, donors=donors)


def _donors_of(trial: FrozenTrial) -> Donors:
    """The names of the donors, as the trial's own parameters have them."""
    for name, distribution in trial.distributions.items():
        if name.startswith("layer_") and isinstance(distribution, CategoricalDistribution):
            return tuple(str(choice) for choice in distribution.choices if choice != BASE)
    return ONE


def space_in(attrs: Mapping[str, Any]) -> LayerSpace:
    """The layers and donors of a study, by its user attributes."""
    return LayerSpace(attrs.get(keys.N_LAYERS), donors=tuple(attrs.get(keys.DONORS, ONE)))


def read_record(trial: FrozenTrial) -> Record | None:
    """One trial as a record, or None where it is about no layer set.

    The attribute `layers` is preferred to the parameters: it is one short text.
    """
    layers = _layers_of(trial)
    if layers is None:
        return None
    attrs = trial.user_attrs
    intermediate = trial.intermediate_values
    last = max(intermediate) if intermediate else None
    score = attrs.get(keys.SCORE)
    if score is None and trial.state != TrialState.FAIL:
        values = trial.values
        score = values[0] if values else intermediate[last] if last is not None else None
    generation = attrs.get(keys.GENERATION)
    if generation is None:
        generation = trial.system_attrs.get(GENERATION_KEY)
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
    """Trials as records, by trial number; trials without a layer set are left out.

    Many trials read again and again are faster through a `RecordReader`.
    """
    found = [record for record in map(read_record, trials) if record is not None]
    return sorted(found, key=lambda record: record.number)


def outranks(record: Record, other: Record) -> bool:
    """Whether `record` tells more than `other` of the same set: questions, then lower number.

    A plain trial without a number of questions counts as the whole evaluation it is.
    """
    mine = _weight(record)
    others = _weight(other)
    return mine > others or (mine == others and record.number < other.number)


def _weight(record: Record) -> float:
    return float("inf") if record.questions is None else record.questions


def best_by_layers(records: Iterable[Record]) -> dict[LayerSet, Record]:
    """For each evaluated layer set, the record with most questions (ties: lower number)."""
    # Tuples of indices hash many times faster than the dataclass around them.
    best: dict[tuple[int, ...], Record] = {}
    for record in records:
        if record.is_evaluated:
            key = record.layers.indices
            known = best.get(key)
            if known is None or outranks(record, known):
                best[key] = record
    return {record.layers: record for record in best.values()}


def ranked(definition: StudyDefinition, records: Iterable[Record]) -> list[Record]:
    """The best record of every evaluated layer set of the budget, best first.

    Full evaluations come before fast ones: a score on few questions, best of many, flatters.
    Ties go to fewer layers.
    """
    least, most = definition.layers.min, definition.layers.max
    found = [r for r in best_by_layers(records).values() if least <= len(r.layers) <= most]
    return sorted(found, key=lambda r: (not r.is_full, -(r.score or 0.0), len(r.layers), r.layers))


def references(space: LayerSpace) -> dict[str, LayerSet]:
    """The base and the donors by name, as layer sets."""
    return {BASE: LayerSet(()), **{name: space.whole(name) for name in space.donors}}


def held_out_targets(
    definition: StudyDefinition, records: Iterable[Record], space: LayerSpace
) -> dict[str, LayerSet]:
    """What answers the held-out questions: the best sets that are full, the base and the donors."""
    full = [record.layers for record in ranked(definition, records) if record.is_full]
    best = {f"rank {rank}": layers for rank, layers in enumerate(full[:MAX_HELD_OUT], start=1)}
    return best | references(space)


def held_out_key(layers: LayerSet, space: LayerSpace) -> str:
    """The attribute of a study that holds the held-out score and answers of a layer set."""
    return f"{keys.HELD_OUT}{space.text(layers)}"


def given_up(records: Iterable[Record]) -> set[LayerSet]:
    """Layer sets that failed `MAX_FAILURES` times by their own fault: never proposed again.

    A worker that dies cannot leave a reason, so a failed trial of a worker without one counts
    as lost, not as failed.
    """
    failures: Counter[LayerSet] = Counter()
    fail = TrialState.FAIL  # an enum looks its members up each time
    for record in [r for r in records if r.state is fail]:
        lost = record.worker and not record.reason
        if not lost and not record.reason.startswith(keys.HARMLESS_REASONS):
            spent = record.reason.startswith(keys.REASON_SPENT)
            failures[record.layers] += MAX_FAILURES if spent else 1
    return {layers for layers, count in failures.items() if count >= MAX_FAILURES}
