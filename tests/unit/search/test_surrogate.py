"""The model of main effects, pairs and triples against known truth."""

from __future__ import annotations

import numpy as np
import pytest

from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search.genetic import MOST_PAUSED, _likeliest
from optlayers.search.individual import Individual
from optlayers.search.surrogate import MOST, Surrogate, indicators

N = 10


def truth(layers: LayerSet) -> float:
    """Three layers help, one harms, and 1 with 7 is worth more than both."""
    effects = {0: 0.1, 1: 0.02, 4: 0.08, 7: 0.02, 9: -0.1}
    score = 0.3 + sum(effects.get(i, 0.0) for i in layers)
    return score + (0.15 if 1 in layers and 7 in layers else 0.0)


def observed(count: int, noise: float = 0.0, seed: int = 0) -> tuple[list[Individual], set[int]]:
    rng = np.random.default_rng(seed)
    sets = list(LayerSpace(N, 1, 3))
    rows = set(rng.choice(len(sets), count, replace=False).tolist())
    return [
        Individual(sets[r], truth(sets[r]) + float(rng.normal(0, noise)), variance=noise**2)
        for r in rows
    ], rows


def test_sets_that_were_not_seen_are_predicted() -> None:
    observations, rows = observed(100)
    sets = list(LayerSpace(N, 1, 3))
    unseen = [s for r, s in enumerate(sets) if r not in rows]
    model = Surrogate(observations, N)
    wanted = np.array([truth(s) for s in unseen])
    mean, covariance = model.predict(unseen)
    assert np.corrcoef(mean, wanted)[0, 1] > 0.97
    np.testing.assert_allclose(model.mean(unseen), mean, atol=1e-9)
    assert np.all(np.linalg.eigvalsh(covariance) > -1e-8)


def test_its_intervals_hold_what_they_promise() -> None:
    inside = total = 0
    sets = list(LayerSpace(N, 1, 3))
    wanted = np.array([truth(s) for s in sets])
    for seed in range(10):
        observations, _ = observed(60, noise=0.03, seed=seed)
        mean, covariance = Surrogate(observations, N).predict(sets)
        inside += int((np.abs(mean - wanted) < 1.96 * np.sqrt(np.diag(covariance))).sum())
        total += len(sets)
    assert inside / total >= 0.85


def test_a_pair_that_works_together_is_chosen_from_its_parts() -> None:
    observations, _ = observed(100, noise=0.01)
    sets = [s for s in LayerSpace(N, 3, 3) if s not in {o.layers for o in observations}]
    chosen = Surrogate(observations, N).choose(sets, 5, np.random.default_rng(0))
    assert len(set(chosen)) == 5
    assert np.mean([truth(s) for s in chosen]) > np.quantile([truth(s) for s in sets], 0.9)


def test_the_choice_depends_on_the_generator_alone() -> None:
    observations, _ = observed(50, noise=0.02)
    sets = list(LayerSpace(N, 2, 2))
    first, again, other = (
        Surrogate(observations, N).choose(sets, 8, np.random.default_rng(seed))
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_it_stays_small_however_many_trials_there_are() -> None:
    rng = np.random.default_rng(0)
    many = [
        Individual(LayerSet(tuple(int(i) for i in rng.choice(32, 3, False))), float(s))
        for s in rng.random(3000)
    ]
    model = Surrogate(many, 32)
    assert len(model._x) == MOST


def test_equal_scores_are_no_fault_and_one_observation_is() -> None:
    sets = list(LayerSpace(N, 1, 1))
    model = Surrogate([Individual(s, 0.25, variance=0.001) for s in sets], N)
    np.testing.assert_allclose(model.mean(sets), 0.25, atol=1e-6)
    with pytest.raises(ValueError, match="1 observations; a model needs 2"):
        Surrogate([Individual(sets[0], 0.1)], N)


def test_indicators_are_one_where_a_set_holds_a_layer() -> None:
    assert indicators([LayerSet.of(0, 2), LayerSet(())], 3).tolist() == [[1, 0, 1], [0, 0, 0]]


def test_of_many_paused_sets_those_that_the_model_holds_for_best_compete() -> None:
    observations, _ = observed(100)
    model = Surrogate(observations, N)
    few = [o.layers for o in observations[:20]]
    assert _likeliest(few, model) == few
    many = list(LayerSpace(N, 1, 4))
    assert len(many) > MOST_PAUSED
    kept = _likeliest(many, model)
    worth = model.mean(many)
    assert sorted(model.mean(list(kept))) == sorted(np.sort(worth)[-MOST_PAUSED:])
