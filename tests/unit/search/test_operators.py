from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from optlayers.layerset import LayerSet
from optlayers.search import LayerSpace
from optlayers.search.operators import (
    mutate,
    mutation_odds,
    plant_pattern,
    repair,
    uniform_crossover,
)
from optlayers.search.patterns import Pattern

SPACE = LayerSpace(n_layers=10, min_layers=1, max_layers=4)


def patterns_of(*texts: str) -> list[Pattern]:
    return [Pattern(LayerSet.parse(text), 2, 1.0) for text in texts]


def kinds(layers: LayerSet, space: LayerSpace, draws: int = 4000) -> dict[int, float]:
    rng = np.random.default_rng(0)
    sizes = Counter(len(mutate(layers, space, (), rng)) - len(layers) for _ in range(draws))
    return {change: count / draws for change, count in sizes.items()}


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, {1: 0.7, 0: 0.3}),
        (2, {0: 0.4, 1: 0.3, -1: 0.3}),
        (3, {0: 0.4, 1: 0.3, -1: 0.3}),
        (4, {0: 0.7, -1: 0.3}),
    ],
)
def test_mutation_follows_the_size(size: int, expected: dict[int, float]) -> None:
    found = kinds(LayerSet(tuple(range(size))), SPACE)
    assert set(found) == set(expected)
    for change, share in expected.items():
        assert found[change] == pytest.approx(share, abs=0.03)


def test_one_size_only_swaps_and_a_whole_model_cannot_change() -> None:
    fixed = LayerSpace(n_layers=6, min_layers=3, max_layers=3)
    assert mutation_odds(3, fixed) == {"swap": 1.0}
    whole = LayerSpace(n_layers=3, min_layers=3, max_layers=3)
    layers = LayerSet.of(0, 1, 2)
    assert mutate(layers, whole, (), np.random.default_rng(0)) == layers


def test_a_swap_exchanges_exactly_one_layer() -> None:
    rng = np.random.default_rng(0)
    space = LayerSpace(n_layers=10, min_layers=3, max_layers=3)
    layers = LayerSet.of(1, 4, 7)
    for _ in range(200):
        assert len(set(mutate(layers, space, (), rng)) & set(layers)) == 2


def test_a_pattern_replaces_other_layers_and_the_size_stays() -> None:
    rng = np.random.default_rng(0)
    found = {
        plant_pattern(LayerSet.of(0, 1, 9), SPACE, patterns_of("4,5"), rng) for _ in range(100)
    }
    assert found == {LayerSet.of(4, 5, i) for i in (0, 1, 9)}
    planted = plant_pattern(LayerSet.of(0), SPACE, patterns_of("4,5,6"), rng)
    assert planted == LayerSet.of(4, 5, 6)
    assert plant_pattern(LayerSet.of(0), SPACE, patterns_of("3,4,5,6,7"), rng) is None
    assert plant_pattern(LayerSet.of(4, 5), SPACE, patterns_of("4,5"), rng) is None


@pytest.mark.parametrize("patterns", [["3,5"], ["2,4,6"], ["7"]])
def test_patterns_of_every_size_reach_mutations(patterns: list[str]) -> None:
    rng = np.random.default_rng(0)
    wanted = set(LayerSet.parse(patterns[0]))
    known = patterns_of(*patterns)
    found = [mutate(LayerSet.of(0, 1), SPACE, known, rng) for _ in range(200)]
    assert sum(wanted <= set(layers) for layers in found) > 40


@pytest.mark.parametrize("known", [[], patterns_of("1,2", "3,4,5", "9")])
@pytest.mark.parametrize(("least", "most"), [(1, 4), (2, 2), (3, 6), (1, 10), (10, 10)])
def test_no_operator_ever_breaks_the_budget(known: list[Pattern], least: int, most: int) -> None:
    space = LayerSpace(n_layers=10, min_layers=least, max_layers=most)
    rng = np.random.default_rng(0)
    for _ in range(300):
        a, b = (space.random(rng, space.random_size(rng)) for _ in range(2))
        child = repair(uniform_crossover(a, b, rng), space, rng)
        assert child in space
        assert mutate(child, space, known, rng, 0.5) in space


def test_crossover_keeps_what_both_parents_hold_and_invents_nothing() -> None:
    rng = np.random.default_rng(0)
    a, b = LayerSet.of(1, 2, 3), LayerSet.of(3, 4, 5)
    children = [set(uniform_crossover(a, b, rng)) for _ in range(200)]
    assert all(3 in child and child <= {1, 2, 3, 4, 5} for child in children)
    assert len({frozenset(child) for child in children}) == 16
