"""Patterns: groups of layers that good sets share, mined from the best individuals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from optlayers.layerset import LayerSet
from optlayers.search.individual import Individual

# How many patterns of each size are kept.
KEEP: Mapping[int, int] = MappingProxyType({1: 10, 2: 15, 3: 10})


@dataclass(frozen=True)
class Pattern:
    """A group of layers, how often good sets hold it, and its quality (0 or more)."""

    layers: LayerSet
    frequency: int
    quality: float


def mine_patterns(
    individuals: Sequence[Individual],
    *,
    top: int = 20,
    min_frequency: int = 2,
    keep: Mapping[int, int] = KEEP,
) -> list[Pattern]:
    """The best patterns of each size in `keep` among the `top` fittest, best first by size.

    Quality = mean fitness of the sets that hold it x ln(1 + frequency). Where some fitness is
    negative (a minimised objective), fitness is counted from the lowest of all individuals,
    so that more is still better.
    """
    ranked = sorted(individuals, key=lambda i: i.fitness, reverse=True)[:top]
    if not ranked:
        return []
    offset = min(0.0, min(i.fitness for i in individuals))
    held: dict[tuple[int, ...], list[float]] = {}
    for individual in ranked:
        for size in keep:
            for group in itertools.combinations(individual.layers.indices, size):
                held.setdefault(group, []).append(individual.fitness - offset)
    patterns = [
        Pattern(LayerSet(group), len(f), sum(f) / len(f) * math.log1p(len(f)))
        for group, f in held.items()
        if len(f) >= min_frequency
    ]
    patterns.sort(key=lambda p: (-p.quality, p.layers))
    return [
        pattern
        for size, count in sorted(keep.items())
        for pattern in [p for p in patterns if len(p.layers) == size][:count]
    ]


def layer_strengths(
    individuals: Sequence[Individual],
    n_layers: int,
    single_layer_scores: Sequence[float] | None = None,
) -> list[float]:
    """How much each layer adds, float [n_layers], in units of fitness around 0.

    The mean, over the sets that hold it, of fitness less the mean fitness of that size, drawn
    toward 0 by two sets. Single-layer scores count as one more set each.
    """
    total = [0.0] * n_layers
    count = [2.0] * n_layers
    by_size: dict[int, list[float]] = {}
    for individual in individuals:
        by_size.setdefault(len(individual.layers.indices), []).append(individual.fitness)
    means = {size: sum(f) / len(f) for size, f in by_size.items()}
    for individual in individuals:
        indices = individual.layers.indices
        excess = individual.fitness - means[len(indices)]
        for layer in indices:
            total[layer] += excess
            count[layer] += 1.0
    if single_layer_scores is not None and len(single_layer_scores) == n_layers:
        mean = sum(single_layer_scores) / n_layers
        for layer, score in enumerate(single_layer_scores):
            total[layer] += score - mean
            count[layer] += 1.0
    return [t / c for t, c in zip(total, count, strict=True)]
