"""Patterns: groups of layers that good sets share, mined from the best individuals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from optlayers.layerset import LayerSet
from optlayers.search.individual import Individual

# How many patterns of each size are kept.
KEEP: Mapping[int, int] = MappingProxyType({1: 10, 2: 15, 3: 10})


@dataclass(frozen=True)
class Pattern:
    """A group of layers, how often good sets hold it, and its quality (0 or more).

    `mean` is the mean fitness of the good sets that hold it; `synergy` what all sets that hold it
    score beyond what their layers explain one by one (0 for a single layer).
    """

    layers: LayerSet
    frequency: int
    quality: float
    mean: float = 0.0
    synergy: float = 0.0


def mine_patterns(
    individuals: Sequence[Individual],
    *,
    top: int = 20,
    min_frequency: int = 2,
    keep: Mapping[int, int] = KEEP,
) -> list[Pattern]:
    """The best patterns of each size in `keep` among the `top` fittest, best first by size.

    Quality = (mean fitness of the sets that hold it + synergy) x ln(1 + frequency), so that a group
    with synergy ranks before one that merely occurs in good sets. Where some fitness is negative (a
    minimised objective), fitness is counted from the lowest of all individuals, so that more is
    still better.
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
    held = {group: f for group, f in held.items() if len(f) >= min_frequency}
    beyond = _synergies(individuals, [group for group in held if len(group) > 1])
    patterns = []
    for group, found in held.items():
        mean, synergy = sum(found) / len(found), beyond.get(group, 0.0)
        quality = max(0.0, mean + synergy) * math.log1p(len(found))
        patterns.append(Pattern(LayerSet(group), len(found), quality, mean + offset, synergy))
    patterns.sort(key=lambda p: (-p.quality, p.layers))
    return [
        pattern
        for size, count in sorted(keep.items())
        for pattern in [p for p in patterns if len(p.layers) == size][:count]
    ]


def _synergies(
    individuals: Sequence[Individual], groups: Sequence[tuple[int, ...]]
) -> dict[tuple[int, ...], float]:
    """Of each group, the mean excess of the sets that hold it, drawn toward 0 by two sets.

    Excess: fitness less the mean of that size, less what each layer adds (`layer_strengths`).
    """
    if not groups:
        return {}
    n_layers = 1 + max(max(i.layers.indices, default=0) for i in individuals)
    held = np.zeros((len(individuals), n_layers), dtype=bool)
    for row, individual in enumerate(individuals):
        held[row, list(individual.layers.indices)] = True
    fitness = np.array([i.fitness for i in individuals])
    size = held.sum(axis=1)
    means = np.bincount(size, weights=fitness) / np.maximum(np.bincount(size), 1)
    excess = fitness - means[size] - held @ np.array(layer_strengths(individuals, n_layers))
    found = {}
    for group in groups:
        rows = held[:, list(group)].all(axis=1)
        found[group] = float(excess[rows].sum() / (rows.sum() + 2.0))
    return found


def layer_strengths(
    individuals: Sequence[Individual],
    n_layers: int,
) -> list[float]:
    """How much each layer adds, float [n_layers], in units of fitness around 0.

    The mean, over the sets that hold it, of fitness less the mean fitness of that size, drawn
    toward 0 by two sets.
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
    return [t / c for t, c in zip(total, count, strict=True)]
