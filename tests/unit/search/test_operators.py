from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from optlayers.layerset import LayerSet
from optlayers.search import LayerSpace
from optlayers.search.guide import Guide
from optlayers.search.operators import (
    complete_pattern,
    mutate,
    mutation_odds,
    plant_pattern,
    remove_layer,
    repair,
    uniform_crossover,
)
from optlayers.search.patterns import Pattern

SPACE = LayerSpace(n_layers=10, min_layers=1, max_layers=4)
NO_GUIDE = Guide()


def guide(*patterns: str, probability: float = 1.0, strengths: list[float] | None = None) -> Guide:
    return Guide(
        patterns=tuple(Pattern(LayerSet.parse(p), 2, 1.0) for p in patterns),
        probability=probability,
        strengths=tuple(strengths or [float(i) for i in range(10)]),
    )


def kinds(layers: LayerSet, space: LayerSpace, draws: int = 4000) -> dict[int, float]:
    rng = np.random.default_rng(0)
    sizes = Counter(len(mutate(layers, space, NO_GUIDE, rng)) - len(layers) for _ in range(draws))
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
    assert mutate(layers, whole, NO_GUIDE, np.random.default_rng(0)) == layers


def test_a_swap_exchanges_exactly_one_layer() -> None:
    rng = np.random.default_rng(0)
    space = LayerSpace(n_layers=10, min_layers=3, max_layers=3)
    layers = LayerSet.of(1, 4, 7)
    for _ in range(200):
        assert len(set(mutate(layers, space, NO_GUIDE, rng)) & set(layers)) == 2


def test_a_guided_removal_drops_the_weakest_layer() -> None:
    strong = [0.0] * 10
    strong[4] = -1.0
    rng = np.random.default_rng(0)
    gone = remove_layer(LayerSet.of(1, 4, 7), guide(strengths=strong), rng, guided=True)
    assert gone == LayerSet.of(1, 7)


def test_a_guided_addition_completes_a_triple_that_is_partly_there() -> None:
    rng = np.random.default_rng(0)
    assert complete_pattern(LayerSet.of(2), SPACE, guide("2,5,8"), rng) == LayerSet.of(2, 5, 8)
    assert complete_pattern(LayerSet.of(0, 1, 2), SPACE, guide("2,5,8"), rng) is None
    assert complete_pattern(LayerSet.of(2, 5, 8), SPACE, guide("2,5,8"), rng) is None


def test_a_guided_swap_plants_a_whole_pattern_for_the_weakest() -> None:
    rng = np.random.default_rng(0)
    # Strengths rise with the index, so 9 stays and 0 and 1 go.
    assert plant_pattern(LayerSet.of(0, 1, 9), SPACE, guide("4,5"), rng) == LayerSet.of(4, 5, 9)
    assert plant_pattern(LayerSet.of(0), SPACE, guide("4,5,6"), rng) == LayerSet.of(4, 5, 6)
    assert plant_pattern(LayerSet.of(0), SPACE, guide("3,4,5,6,7"), rng) is None


@pytest.mark.parametrize("patterns", [["3,5"], ["2,4,6"], ["7"]])
def test_patterns_of_every_size_reach_mutations(patterns: list[str]) -> None:
    rng = np.random.default_rng(0)
    wanted = set(LayerSet.parse(patterns[0]))
    found = [mutate(LayerSet.of(0, 1), SPACE, guide(*patterns), rng) for _ in range(200)]
    assert sum(wanted <= set(layers) for layers in found) > 60


@pytest.mark.parametrize("make_guide", [lambda: NO_GUIDE, lambda: guide("1,2", "3,4,5", "9")])
@pytest.mark.parametrize(("least", "most"), [(1, 4), (2, 2), (3, 6), (1, 10), (10, 10)])
def test_no_operator_ever_breaks_the_budget(
    make_guide: Callable[[], Guide], least: int, most: int
) -> None:
    space = LayerSpace(n_layers=10, min_layers=least, max_layers=most)
    rng = np.random.default_rng(0)
    for _ in range(300):
        a, b = (space.random(rng, space.random_size(rng)) for _ in range(2))
        child = repair(uniform_crossover(a, b, rng), space, make_guide(), rng)
        assert child in space
        assert mutate(child, space, make_guide(), rng) in space


def test_crossover_keeps_what_both_parents_hold_and_invents_nothing() -> None:
    rng = np.random.default_rng(0)
    a, b = LayerSet.of(1, 2, 3), LayerSet.of(3, 4, 5)
    children = [set(uniform_crossover(a, b, rng)) for _ in range(200)]
    assert all(3 in child and child <= {1, 2, 3, 4, 5} for child in children)
    assert len({frozenset(child) for child in children}) == 16
