from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from optlayers.errors import InputError
from optlayers.layerset import LayerSet, all_layer_sets
from optlayers.search import LayerSpace
from optlayers.search.initial import favoured_size


def test_the_size_is_the_number_of_sets() -> None:
    space = LayerSpace(n_layers=7, min_layers=2, max_layers=4)
    sets = list(all_layer_sets(7, 2, 4))
    assert space.size == len(sets)
    assert all(layers in space for layers in sets)
    assert LayerSet.of(1) not in space
    assert LayerSet.of(1, 7) not in space


@pytest.mark.parametrize(
    ("n_layers", "minimum", "maximum"), [(0, 1, 1), (4, 3, 2), (4, 1, 5), (4, -1, 2)]
)
def test_a_budget_that_does_not_fit_is_refused(n_layers: int, minimum: int, maximum: int) -> None:
    with pytest.raises(InputError):
        LayerSpace(n_layers=n_layers, min_layers=minimum, max_layers=maximum)


def test_sizes_2_3_4_come_at_20_40_40() -> None:
    space = LayerSpace(n_layers=16, min_layers=1, max_layers=4)
    rng = np.random.default_rng(0)
    sizes = Counter(favoured_size(rng, space) for _ in range(5000))
    assert set(sizes) == {2, 3, 4}
    assert sizes[2] / 5000 == pytest.approx(0.2, abs=0.03)
    assert sizes[3] / 5000 == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize(("minimum", "maximum"), [(1, 1), (3, 3), (1, 2), (5, 8), (0, 0)])
def test_favoured_sizes_keep_to_any_budget(minimum: int, maximum: int) -> None:
    space = LayerSpace(n_layers=8, min_layers=minimum, max_layers=maximum)
    rng = np.random.default_rng(0)
    sizes = {favoured_size(rng, space) for _ in range(200)}
    assert sizes <= set(range(minimum, maximum + 1))


def test_the_last_unseen_set_is_found_and_then_none() -> None:
    space = LayerSpace(n_layers=9, min_layers=1, max_layers=3)
    sets = list(all_layer_sets(9, 1, 3))
    rng = np.random.default_rng(0)
    assert space.random_unseen(rng, {s.indices for s in sets[:-1]}) == sets[-1]
    assert space.random_unseen(rng, {s.indices for s in sets}) is None
