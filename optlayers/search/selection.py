"""Parent selection: non-dominated sorting on (fitness, fewer layers), elites, tournament."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import numpy as np

from optlayers.search.individual import Individual

_fitness = attrgetter("fitness")


def non_dominated_fronts(
    individuals: Sequence[Individual], limit: int | None = None
) -> list[list[Individual]]:
    """Fronts of (fitness up, layers down), best front first, each sorted by size.

    One set dominates another if it is at least as fit with at most as many layers, and better
    in one of the two (Deb et al. 2002). Sizes are few, so each front takes the head of each
    size's sorted list: O(n log n). Stops after the front that reaches `limit` individuals.
    Among equals of a size the earlier comes first.
    """
    by_size: dict[int, list[Individual]] = {}
    # Items are popped from the end and sorting is stable: reverse first, so earlier ties pop first.
    ascending = list(individuals)
    ascending.reverse()
    ascending.sort(key=_fitness)
    for individual in ascending:
        by_size.setdefault(len(individual.layers.indices), []).append(individual)
    fronts: list[list[Individual]] = []
    taken = 0
    while any(by_size.values()) and (limit is None or taken < limit):
        front: list[Individual] = []
        bar = float("-inf")
        for size in sorted(by_size):
            column = by_size[size]
            if not column or column[-1].fitness <= bar:
                continue
            bar = column[-1].fitness
            # Equals of one size do not dominate each other.
            while column and column[-1].fitness == bar:
                front.append(column.pop())
        fronts.append(front)
        taken += len(front)
    return fronts


def select_parents(
    individuals: Sequence[Individual], *, population_size: int, n_elites: int
) -> list[Individual]:
    """At most `population_size` parents: the elites first, then front by front.

    The elites are the fittest whatever their size; a front that does not fit is cut to its
    fittest. Individuals of all generations compete (mu + lambda), so a good one is never lost.
    """
    chosen = sorted(individuals, key=_fitness, reverse=True)[: min(n_elites, population_size)]
    held = {i.layers for i in chosen}
    for front in non_dominated_fronts(individuals, limit=population_size + n_elites):
        for individual in sorted(front, key=_fitness, reverse=True):
            if len(chosen) >= population_size:
                return chosen
            if individual.layers not in held:
                held.add(individual.layers)
                chosen.append(individual)
    return chosen


def tournament(parents: Sequence[Individual], rng: np.random.Generator, *, size: int) -> Individual:
    """The best of `size` random parents; `parents` is sorted best first.

    Raises `ValueError` where there are no parents.
    """
    if not parents:
        raise ValueError("tournament: no parents")
    return parents[int(rng.integers(len(parents), size=size).min())]
