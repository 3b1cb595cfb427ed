"""Pairs of layers that are worth something only together."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search.individual import Individual
from optlayers.search.pairs import PairSets, pair_share
from optlayers.search.surrogate import Surrogate
from tests.helpers.search_suite import PAIRS, skill_of_pairs


def model(space: LayerSpace, sets: list[LayerSet]) -> Surrogate:
    return Surrogate(
        [Individual(s, skill_of_pairs(s), variance=1e-4) for s in sets], space.n_choices
    )


def test_what_a_pair_adds_is_the_combination_of_its_four_sets() -> None:
    space = LayerSpace(n_layers=12, min_layers=0, max_layers=4)
    rng = np.random.default_rng(0)
    fitted = model(space, [space.random(rng, int(rng.integers(5))) for _ in range(60)])
    core = LayerSet.of(2, 7)
    mean, deviation = fitted.synergies(core)
    for i, j in itertools.combinations([0, 1, 5, 8, 11], 2):
        four = [LayerSet((*core, *more)) for more in ((i, j), (i,), (j,), ())]
        found = fitted.combination(four, np.array([1.0, -1.0, -1.0, 1.0]))
        assert (mean[i, j], deviation[i, j]) == pytest.approx(found, rel=1e-6, abs=1e-9)
        assert (mean[j, i], deviation[j, i]) == (mean[i, j], deviation[i, j])


def test_a_hundred_sets_or_so_hold_all_pairs_once() -> None:
    space = LayerSpace(n_layers=32, min_layers=1, max_layers=4)
    singles = [LayerSet.of(i) for i in range(32)]
    fitted = Surrogate([Individual(s, 0.1 * i) for i, s in enumerate(singles)], 32)
    looking = PairSets(space, fitted, singles[3], [s.indices for s in singles])
    rng = np.random.default_rng(0)
    drawn = list(iter(lambda: looking.covering(rng), None))
    assert all(len(layers) == 4 and layers in space for layers in drawn)
    assert len({p for s in drawn for p in itertools.combinations(s, 2)}) == 32 * 31 // 2
    assert 83 <= len(drawn) <= 150


def test_the_pair_that_the_model_expects_joins_the_best_part_of_the_best() -> None:
    space = LayerSpace(n_layers=12, min_layers=1, max_layers=4)
    rng = np.random.default_rng(1)
    best = LayerSet.of(0, 3, 8, 11)
    known = [best, *(space.random(rng, 4) for _ in range(80)), LayerSet.of(1, 2, 6, 7)]
    known = [s for s in known if not (PAIRS[0] | PAIRS[1]) <= set(s)]
    looking = PairSets(space, model(space, known), best, [s.indices for s in known])
    found = [looking.together(frozenset(), rng) for _ in range(10)]
    assert sum(s == LayerSet.of(1, 6, 8, 11) for s in found) >= 5


def test_sets_are_new_of_the_budget_and_hold_no_layer_twice() -> None:
    space = LayerSpace(n_layers=4, min_layers=2, max_layers=3, donors=("a", "b"))
    every = list(space)
    rng = np.random.default_rng(2)
    fitted = Surrogate([Individual(s, rng.random()) for s in every[::5]], space.n_choices)
    taken = {s.indices for s in every[::5]}
    looking = PairSets(space, fitted, every[0], taken)
    drawn = looking.draw(12, taken, rng)
    assert drawn
    assert len(set(drawn)) == len(drawn)
    assert all(s in space and s.indices not in taken for s in drawn)


def test_nothing_is_drawn_where_no_set_holds_a_pair() -> None:
    space = LayerSpace(n_layers=6, min_layers=1, max_layers=1)
    fitted = Surrogate([Individual(LayerSet.of(i), 0.1 * i) for i in range(6)], 6)
    assert not PairSets(space, fitted, LayerSet.of(5), []).draw(3, set(), np.random.default_rng(0))


def test_the_share_grows_while_nothing_better_is_found() -> None:
    found = [Individual(LayerSet.of(0), 0.5), Individual(LayerSet.of(1), 0.9, 1)]
    shares = [pair_share(found, place, 10) for place in (20, 25, 30, 40, 50, 200)]
    assert shares == pytest.approx([0.0, 0.0, 0.1, 0.3, 0.5, 0.5])
    assert pair_share(found[:1], 200, 10) == 0.0
