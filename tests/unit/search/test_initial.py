from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from optlayers.layerset import LayerSpace
from optlayers.search.initial import favoured_size


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
