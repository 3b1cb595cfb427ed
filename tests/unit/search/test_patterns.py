from __future__ import annotations

import itertools
import math

import pytest

from optlayers.layerset import LayerSet
from optlayers.search.individual import Individual
from optlayers.search.patterns import layer_strengths, mine_patterns
from tests.helpers.records import individual


def test_quality_is_mean_fitness_times_log_of_one_plus_frequency() -> None:
    found = {
        str(p.layers): p
        for p in mine_patterns(
            [individual("1,2,3", 0.9), individual("1,2,4", 0.5), individual("5", 0.8)]
        )
    }
    assert set(found) == {"1", "2", "1,2"}
    assert found["1,2"].frequency == 2
    pair = found["1,2"]
    assert pair.mean == pytest.approx(0.7)
    assert pair.quality == pytest.approx((0.7 + pair.synergy) * math.log(3))
    assert found["1"].quality == pytest.approx(0.7 * math.log(3))


def test_a_pair_that_is_more_than_its_parts_has_synergy_and_one_that_repeats_itself_less() -> None:
    def worth(layers: tuple[int, ...]) -> float:
        both = 0.3 * ({0, 1} <= set(layers)) - 0.1 * ({2, 3} <= set(layers))
        return 0.3 + 0.1 * len({2, 3} & set(layers)) + both

    sets = [s for n in (1, 2) for s in itertools.combinations(range(8), n)]
    found = mine_patterns(
        [Individual(LayerSet(s), worth(s), 0) for s in sets], top=len(sets), min_frequency=1
    )
    synergy = {str(p.layers): p.synergy for p in found}
    assert synergy["0,1"] > 0.05 > 0.0 > synergy["2,3"]
    assert synergy["2"] == 0.0


def test_groups_of_three_are_mined_and_only_from_the_top() -> None:
    good = [individual("1,2,3,4", 0.9), individual("1,2,3,5", 0.8)]
    poor = [individual(f"7,8,{i}", 0.1) for i in range(9, 40)]
    found = {str(p.layers) for p in mine_patterns([*poor, *good], top=2)}
    assert "1,2,3" in found
    assert not any("7" in text.split(",") for text in found)


def test_at_most_10_15_10_of_a_size_are_kept() -> None:
    twins = [individual("0,1,2,3,4,5,6,7,8,9,10,11", f) for f in (0.5, 0.6)]
    sizes = [len(p.layers) for p in mine_patterns(twins)]
    assert (sizes.count(1), sizes.count(2), sizes.count(3)) == (10, 15, 10)


def test_negative_fitness_still_ranks_better_patterns_higher() -> None:
    found = mine_patterns(
        [
            individual("1,2", -0.1),
            individual("1,3", -0.2),
            individual("4,5", -0.8),
            individual("4,6", -0.9),
        ]
    )
    quality = {str(p.layers): p.quality for p in found}
    assert quality["1"] > quality["4"] >= 0.0


def test_strengths_compare_sets_of_one_size() -> None:
    strengths = layer_strengths(
        [
            individual("0", 0.2),
            individual("1", 0.4),
            individual("0,2", 0.9),
            individual("1,2", 0.9),
        ],
        4,
    )
    assert strengths[1] > 0.0 > strengths[0]
    # Layer 2 is in large sets only, which says nothing for it; layer 3 was never seen.
    assert strengths[2] == pytest.approx(0.0)
    assert strengths[3] == 0.0
