"""Individual: one evaluated layer set as the genetic search and the surrogate see it."""

from __future__ import annotations

from typing import NamedTuple

from optlayers.layerset import LayerSet

# Evaluated before the first generation or outside of any: a parent for every generation.
NO_GENERATION = -1


class Individual(NamedTuple):
    """An evaluated layer set: `fitness` is larger for better, and comparable across fidelities.

    `generation` is the one that it was proposed for (`NO_GENERATION`: none). `score` is its
    measured score, larger for better, before it is shrunk by how few questions it rests on (None:
    `fitness` is all there is), and `variance` that of its noise, where known.
    """

    layers: LayerSet
    fitness: float
    generation: int = NO_GENERATION
    score: float | None = None
    variance: float | None = None

    @property
    def measured(self) -> float:
        """The score, or else the fitness."""
        return self.fitness if self.score is None else self.score
