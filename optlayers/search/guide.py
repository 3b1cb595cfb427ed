"""Guide: what the history says a mutation should do, as a pure function of the individuals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optlayers.search.individual import Individual
from optlayers.search.patterns import Pattern, layer_strengths, mine_patterns


@dataclass(frozen=True)
class Guide:
    """Patterns, the chance that a mutation follows them, and the strength of each layer."""

    patterns: tuple[Pattern, ...] = ()
    probability: float = 0.0
    strengths: tuple[float, ...] = ()


def guide_from(
    individuals: Sequence[Individual],
    *,
    generation: int,
    n_layers: int,
    single_layer_scores: Sequence[float] | None = None,
    pattern_interval: int = 5,
    guide_prob: float = 0.2,
    guide_step: float = 0.05,
    guide_max: float = 0.6,
) -> Guide:
    """The guide of proposals of that generation, from the individuals of the earlier ones.

    Patterns are mined anew after a generation that ends a block of `pattern_interval` or has
    a new best; each time adds `guide_step` to the probability. No worker keeps any of this:
    the same individuals give the same guide everywhere.
    """
    earlier = [i for i in individuals if i.generation < generation]
    fittest: dict[int, float] = {}
    for individual in earlier:
        known = fittest.get(individual.generation)
        if known is None or individual.fitness > known:
            fittest[individual.generation] = individual.fitness
    updates, last, best = 0, None, float("-inf")
    for past in range(min(fittest, default=0), generation):
        new_best = fittest.get(past, float("-inf")) > best
        if new_best:
            best = fittest[past]
        if past >= 0 and (new_best or (past + 1) % pattern_interval == 0):
            updates, last = updates + 1, past
    patterns: list[Pattern] = []
    if last is not None:
        patterns = mine_patterns([i for i in earlier if i.generation <= last])
    return Guide(
        patterns=tuple(patterns),
        probability=min(guide_max, guide_prob + guide_step * updates),
        strengths=tuple(layer_strengths(earlier, n_layers, single_layer_scores)),
    )
