"""What each layer and each pair of layers adds, as the search has learned it, laid out as matrices.

Shapes: L layers, or with several donors the layers of each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optlayers.search import Effect, Explanation, explain
from optlayers.trials.record import Record

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Effects:
    """What layers do, alone and together.

    explanation: what `optlayers patterns` shows. synergy[i, j]: what i and j add together beyond
    the sum of what each adds alone (NaN on the diagonal and for pairs that were never tried);
    half[i, j]: half its 95 % interval.
    """

    explanation: Explanation
    synergy: Matrix
    half: Matrix

    @property
    def layers(self) -> Sequence[Effect]:
        """What each layer adds on average, by its index."""
        return self.explanation.layers

    @property
    def pairs(self) -> Sequence[Effect]:
        """Synergies of all pairs that were tried, the sure and strong ones first."""
        return self.explanation.pairs


def effects(records: Sequence[Record], n_layers: int, n_donors: int = 1) -> Effects | None:
    """The effects that the trials speak for; None with too few sets."""
    found = explain(records, n_layers, n_donors) if n_layers else None
    if found is None:
        return None
    synergy, half = (np.full((n_layers * n_donors,) * 2, np.nan) for _ in range(2))
    for pair in found.pairs:
        i, j = pair.layers.indices
        synergy[i, j] = synergy[j, i] = pair.effect
        half[i, j] = half[j, i] = (pair.ci_high - pair.ci_low) / 2
    return Effects(found, synergy, half)
