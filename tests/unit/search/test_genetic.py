from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from optlayers.errors import InputError
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search.genetic import GeneticSearch
from optlayers.search.individual import Individual
from optlayers.search.initial import scored_set
from optlayers.search.selection import non_dominated_fronts, select_parents, tournament
from tests.helpers.records import individual

SPACE = LayerSpace(n_layers=16, min_layers=1, max_layers=4)


def random_individuals(count: int, seed: int = 0) -> list[Individual]:
    rng = np.random.default_rng(seed)
    sets = list(LayerSpace(16, 1, 4))
    picks = rng.choice(len(sets), count, replace=False)
    return [
        Individual(sets[int(p)], round(float(rng.random()), 2), i // 20)
        for i, p in enumerate(picks)
    ]


def dominates(a: Individual, b: Individual) -> bool:
    mine, other = (-a.fitness, len(a.layers)), (-b.fitness, len(b.layers))
    return mine != other and mine[0] <= other[0] and mine[1] <= other[1]


def test_fronts_are_those_of_the_definition() -> None:
    left = random_individuals(150)
    for front in non_dominated_fronts(left):
        expected = {a.layers for a in left if not any(dominates(b, a) for b in left)}
        assert {i.layers for i in front} == expected
        left = [i for i in left if i.layers not in expected]
    assert left == []


def test_parents_hold_the_elites_and_the_first_front() -> None:
    crowd = random_individuals(300)
    parents = select_parents(crowd, population_size=20, n_elites=3)
    assert len(parents) == 20 == len({p.layers for p in parents})
    fittest = sorted(crowd, key=lambda i: -i.fitness)[:3]
    assert {i.fitness for i in fittest} == {p.fitness for p in parents[:3]}
    assert {i.layers for i in non_dominated_fronts(crowd)[0]} <= {p.layers for p in parents}


def test_a_tournament_of_more_prefers_the_better() -> None:
    rng = np.random.default_rng(0)
    parents = [individual(str(i), 1.0 - i / 10) for i in range(10)]
    drawn = Counter(tournament(parents, rng, size=3).layers.indices[0] for _ in range(3000))
    # Chance of the best: 1 - 0.9^3.
    assert drawn[0] / 3000 == pytest.approx(0.271, abs=0.03)
    assert drawn[0] > drawn[4] > drawn[9]


def test_the_first_generation_takes_10_known_40_scored_50_random() -> None:
    known = [LayerSet.of(i, i + 1) for i in range(10)]
    scores = [0.01] * 16
    scores[8:] = [0.9] * 8
    search = GeneticSearch(space=SPACE, population_size=40, known_sets=known, model=False)
    rng = np.random.default_rng(0)
    found = search.propose([], [], rng, 40, single_layer_scores=scores)
    sets = [layers for layers, generation in found]
    assert {generation for _, generation in found} == {0}
    assert sets[:4] == known[:4]
    scored = [sum(i >= 8 for i in s) / len(s) for s in sets[4:20]]
    random = [sum(i >= 8 for i in s) / len(s) for s in sets[20:]]
    assert np.mean(scored) > 0.95
    assert np.mean(random) < 0.7
    assert len(set(sets)) == 40


def test_layers_are_drawn_by_their_score_squared() -> None:
    space = LayerSpace(n_layers=3, min_layers=1, max_layers=1)
    rng = np.random.default_rng(0)
    drawn = Counter(scored_set(rng, space, [0.1, 0.2, 0.4]).indices[0] for _ in range(4000))
    assert drawn[2] / 4000 == pytest.approx(16 / 21, abs=0.03)
    assert drawn[1] / 4000 == pytest.approx(4 / 21, abs=0.03)


def test_scores_of_zero_do_not_stop_the_initialisation() -> None:
    found = GeneticSearch(space=SPACE, population_size=10).propose(
        [], [], np.random.default_rng(0), 10, single_layer_scores=[0.0] * 16
    )
    assert len(found) == 10


def test_nothing_seen_claimed_or_excluded_is_proposed_until_the_space_ends() -> None:
    space = LayerSpace(n_layers=6, min_layers=1, max_layers=3)
    sets = list(LayerSpace(6, 1, 3))
    crowd = [Individual(s, i / 50, i // 5) for i, s in enumerate(sets[:20])]
    claimed, excluded = sets[20:25], sets[25:28]
    search = GeneticSearch(space=space, population_size=5)
    found = search.propose(crowd, claimed, np.random.default_rng(0), 99, excluded=excluded)
    assert sorted(layers for layers, _ in found) == sorted(sets[28:])


def test_generations_count_finished_and_claimed_sets() -> None:
    crowd = [i._replace(generation=0) for i in random_individuals(12)]
    claimed = [s for s in LayerSpace(16, 2, 2) if s not in {i.layers for i in crowd}][:3]
    search = GeneticSearch(space=SPACE, population_size=10)
    found = search.propose(crowd, claimed, np.random.default_rng(0), 8)
    assert [generation for _, generation in found] == [1] * 5 + [2] * 3


def test_probed_sets_are_parents_but_fill_no_generation() -> None:
    probes = [Individual(LayerSet.of(i), i / 16, -1) for i in range(16)]
    search = GeneticSearch(space=SPACE, population_size=10)
    found = search.propose(probes, [], np.random.default_rng(0), 12)
    assert [generation for _, generation in found] == [0] * 10 + [1] * 2
    assert search.parents(probes, 1)[0].layers == LayerSet.of(15)


def test_the_parents_of_a_generation_do_not_depend_on_later_ones() -> None:
    crowd = random_individuals(100)
    search = GeneticSearch(space=SPACE, population_size=20)
    early = [i for i in crowd if i.generation < 2]
    assert search.parents(crowd, 2) == search.parents(early, 2)
    assert search.patterns(crowd, 2) == search.patterns(early, 2)


def test_the_same_seed_proposes_the_same() -> None:
    crowd = random_individuals(100)
    search = GeneticSearch(space=SPACE, population_size=20)
    runs = [search.propose(crowd, [], np.random.default_rng(s), 20) for s in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize(
    "settings",
    [{"population_size": 1}, {"tournament_size": 0}, {"crossover_prob": 1.5}, {"guide_prob": -0.1}],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        GeneticSearch(space=SPACE, **settings)  # type: ignore[arg-type]
