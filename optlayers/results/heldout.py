"""Held-out scores: how the best sets, the base and the donors do on questions no decision has seen.

Workers answer these questions when the search is done (`workers.heldout`); here they are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optlayers.config.study import StudyDefinition
from optlayers.layerset import Labels, LayerSet
from optlayers.trials import keys
from optlayers.trials.ranking import held_out_key, held_out_targets
from optlayers.trials.record import Record, space_in


@dataclass(frozen=True)
class HeldOut:
    """The held-out score of one layer set; `name` is its rank, `base`, or the name of a donor."""

    name: str
    layers: Labels
    score: float
    ci_low: float
    ci_high: float
    questions: int


def held_out_scores(
    definition: StudyDefinition, attrs: Mapping[str, Any], records: Sequence[Record]
) -> list[HeldOut]:
    """The held-out scores that a study holds: by rank, then the base and the donors.

    attrs: the user attributes of the study.
    """
    if keys.N_LAYERS not in attrs:
        return []
    targets = held_out_targets(definition, records, space_in(attrs))
    found = (held_out_of(attrs, layers, name) for name, layers in targets.items())
    return [score for score in found if score is not None]


def held_out_of(attrs: Mapping[str, Any], layers: LayerSet, name: str = "") -> HeldOut | None:
    """The held-out score of one set, from the user attributes of its study, or None."""
    space = space_in(attrs)
    value = attrs.get(held_out_key(layers, space))
    if value is None:
        return None
    numbers = {k: value[k] for k in ("score", "ci_low", "ci_high", "questions")}
    return HeldOut(name=name, layers=space.labels(layers), **numbers)
