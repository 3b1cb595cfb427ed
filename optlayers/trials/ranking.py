"""What the records of a study say about its layer sets: the best, the failed, the held-out ones."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

from optuna.trial import TrialState

from optlayers.config.study import StudyDefinition
from optlayers.layerset import BASE, LayerSet, LayerSpace
from optlayers.trials import keys
from optlayers.trials.record import Record

MAX_FAILURES = 3
MAX_KEY = 500  # characters; Optuna's tables keep 512
MAX_HELD_OUT = 10  # layer sets that answer the held-out questions


def outranks(record: Record, other: Record) -> bool:
    """Whether `record` has more questions than `other` of the same set; ties: a lower number.

    A plain trial, without a number of questions, counts as evaluated on all of them.
    """
    mine, others = (float("inf") if r.questions is None else r.questions for r in (record, other))
    return mine > others or (mine == others and record.number < other.number)


def best_by_layers(records: Iterable[Record]) -> dict[LayerSet, Record]:
    """For each evaluated layer set, the record with most questions; ties: the lowest number."""
    # Tuples of indices hash many times faster than layer sets.
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

    Full evaluations come before fast ones: the best of many scores on few questions is too high.
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
    """What answers the held-out questions: the best full layer sets, the base and the donors."""
    full = [record.layers for record in ranked(definition, records) if record.is_full]
    best = {f"rank {rank}": layers for rank, layers in enumerate(full[:MAX_HELD_OUT], start=1)}
    return best | references(space)


def held_out_key(layers: LayerSet, space: LayerSpace) -> str:
    """The attribute of a study that holds the held-out score and answers of a layer set.

    Of many layers of several donors it holds a digest in place of their names.
    """
    key = f"{keys.HELD_OUT}{space.text(layers)}"
    if len(key) <= MAX_KEY:
        return key
    return f"{keys.HELD_OUT}{hashlib.sha256(key.encode()).hexdigest()}"


def given_up(records: Iterable[Record]) -> set[LayerSet]:
    """Layer sets that are not proposed again: they failed `MAX_FAILURES` times by their own fault.

    A failed trial of a worker without a reason is lost, not failed: a worker that dies stores none.
    """
    failures: Counter[LayerSet] = Counter()
    fail = TrialState.FAIL  # looking up a member of an enum is slow
    for record in [r for r in records if r.state is fail]:
        lost = record.worker and not record.reason
        if not lost and not record.reason.startswith(keys.HARMLESS_REASONS):
            final = record.reason.startswith(keys.REASON_SPENT)
            failures[record.layers] += MAX_FAILURES if final else 1
    return {layers for layers, count in failures.items() if count >= MAX_FAILURES}
