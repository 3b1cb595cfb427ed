"""What a search has learned: effects of layers and pairs, and the best sets by generation."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optlayers.layerset import Labels, LayerSet, LayerSpace
from optlayers.search import Explanation, Phase, explain
from optlayers.trials.record import Record

# The best sets whose layers show what the search has learned.
ELITE = 20

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Effects:
    """What layers add to the score, alone and together.

    A choice is a layer, or with several donors a layer of one of them (see `LayerSet`).
    synergy[i, j]: what choices i and j add together beyond the sum of what each adds alone (NaN on
    the diagonal and for pairs that no evaluated set holds). half[i, j]: half its 95 % interval.
    """

    explanation: Explanation
    synergy: Matrix
    half: Matrix


def effects(records: Sequence[Record], space: LayerSpace) -> Effects | None:
    """The effects that a search has learned; None where it has evaluated too few sets."""
    found = explain(records, space)
    if found is None:
        return None
    synergy, half = (np.full((space.n_choices,) * 2, np.nan) for _ in range(2))
    for pair in found.pairs:
        i, j = pair.layers.indices
        synergy[i, j] = synergy[j, i] = pair.effect
        half[i, j] = half[j, i] = (pair.ci_high - pair.ci_low) / 2
    return Effects(found, synergy, half)


@dataclass(frozen=True)
class Generation:
    """The best sets after one generation.

    number: -1 after the probe phase. sets: new ones. best: the best first score so far. share: of
    each choice, the share of the `ELITE` best sets that hold it. pairs: the most frequent pairs in
    these sets, with counts.
    """

    number: int
    sets: int
    best: float
    share: list[float]
    pairs: list[tuple[Labels, int]]


def generations(records: Sequence[Record], space: LayerSpace) -> list[Generation]:
    """The best sets after the probe phase and after each generation of the search."""
    # A set belongs to the generation of its first trial; later trials take it further.
    first: dict[tuple[int, ...], Record] = {}
    for record in records:
        if record.is_evaluated:
            first.setdefault(record.layers.indices, record)
    by_number: dict[int, list[Record]] = {}
    for record in first.values():
        if record.phase == Phase.probe:
            by_number.setdefault(-1, []).append(record)
        elif record.phase == Phase.explore:
            by_number.setdefault(record.generation or 0, []).append(record)
    known: list[Record] = []
    found = []
    for number, new in sorted(by_number.items()):
        known += new
        # All sets have a first score; later scores rest on different numbers of questions.
        elite = sorted(known, key=lambda r: -(r.first_score or 0.0))[:ELITE]
        held = Counter(layer for r in elite for layer in r.layers)
        counts = Counter(
            pair for r in elite for pair in itertools.combinations(r.layers.indices, 2)
        )
        top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:3]
        found.append(
            Generation(
                number=number,
                sets=len(new),
                best=float(elite[0].first_score or 0.0),
                share=[held[i] / len(elite) for i in range(space.n_choices)],
                pairs=[(space.labels(LayerSet(pair)), count) for pair, count in top],
            )
        )
    return found
