"""A layer of a donor is one whole number to the search; no layer is chosen twice, ever."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from optlayers.layerset import LayerSet, LayerSpace, all_of
from optlayers.search import PatternGASampler
from optlayers.search.baselines import BeamSearch, Explorer, OptunaSearch, RandomSearch
from optlayers.search.initial import scored_set
from optlayers.search.operators import mutate, repair, uniform_crossover
from optlayers.search.patterns import Pattern
from optlayers.trials.records import read_records

DONORS = ("a", "b", "c")
SPACE = LayerSpace(n_layers=5, min_layers=1, max_layers=3, donors=DONORS)
EVERY = list(SPACE)


def test_the_space_counts_and_holds_all_its_sets() -> None:
    assert SPACE.size == len(EVERY) == len(set(EVERY))
    assert all(layers in SPACE for layers in EVERY)
    assert LayerSet.of(3, 4) not in SPACE  # layer 1 from two donors
    assert LayerSet.of(15) not in SPACE
    rng = np.random.default_rng(0)
    assert {SPACE.random(rng, size) for size in (1, 2, 3) for _ in range(2000)} == set(EVERY)
    seen = {layers.indices for layers in EVERY[:-1]}
    assert SPACE.random_unseen(rng, seen) == EVERY[-1]


def test_a_neighbour_may_take_a_layer_from_another_donor() -> None:
    mine = LayerSet.of(3)
    near = SPACE.neighbours(mine)
    assert {LayerSet.of(4), LayerSet.of(5), LayerSet.of(0), LayerSet.of(3, 6)} <= set(near)
    assert all(layers in SPACE for layers in near)
    for other in EVERY:
        added, gone = set(other) - set(mine), set(mine) - set(other)
        assert (other in near) == ((len(added), len(gone)) in ((1, 0), (1, 1), (0, 1)))


def test_what_is_bred_chooses_no_layer_twice() -> None:
    rng = np.random.default_rng(1)
    patterns = [Pattern(layers, 2, 1.0) for layers in EVERY[::17]]
    scores = rng.random(15).tolist()
    for _ in range(1500):
        one, two = (EVERY[int(i)] for i in rng.integers(len(EVERY), size=2))
        child = repair(uniform_crossover(one, two, rng), SPACE, rng)
        for made in (
            child,
            mutate(child, SPACE, patterns, rng, 0.5),
            scored_set(rng, SPACE, scores),
        ):
            assert made in SPACE, (one, two, made)


def test_text_and_parameters_have_the_names_of_the_donors() -> None:
    layers = LayerSet.of(1, 9)
    assert layers.text(DONORS) == "0@b,3@a"
    assert LayerSet.parse("3@a, 0@b", 5, DONORS) == layers
    assert LayerSet.parse("all@c", 5, DONORS) == all_of(2, 5, 3) == LayerSet.of(2, 5, 8, 11, 14)
    params = layers.to_params(5, DONORS)
    assert list(params.values()) == ["b", "base", "base", "a", "base"]
    assert LayerSet.from_params(params, DONORS) == layers


def worth(layers: LayerSet) -> float:
    """0@b and 3@c are worth something, and more together."""
    return 0.2 + 0.2 * (1 in layers) + 0.2 * (11 in layers) + 0.2 * ({1, 11} <= set(layers))


def test_an_optuna_study_finds_the_pair_of_two_donors() -> None:
    sampler = PatternGASampler(
        n_layers=5, min_layers=1, max_layers=2, seed=3, population_size=12, donors=DONORS
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(60):
        trial = study.ask(sampler.search_space())
        layers = LayerSet.from_params(trial.params, DONORS)
        assert layers in sampler.space
        study.tell(trial, worth(layers))
    records = read_records(study.get_trials())
    assert len({record.layers for record in records}) == 60
    assert max(records, key=lambda r: r.score or 0).layers == LayerSet.of(1, 11)


@pytest.mark.parametrize("name", ["random", "greedy", "tpe"])
def test_other_searches_keep_to_the_space_too(name: str) -> None:
    searches: dict[str, Explorer] = {
        "random": RandomSearch(space=SPACE, seed=0),
        "greedy": BeamSearch(space=SPACE),
        "tpe": OptunaSearch(space=SPACE, sampler=optuna.samplers.TPESampler(seed=0), seed=0),
    }
    study = optuna.create_study(direction="maximize")
    for _ in range(40):
        found = searches[name].propose_from(read_records(study.get_trials()), 1)
        if not found:
            break
        assert found[0].layers in SPACE
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.COMPLETE,
                value=worth(found[0].layers),
                params=found[0].layers.to_params(5, DONORS),
                distributions=PatternGASampler(
                    n_layers=5, max_layers=3, donors=DONORS
                ).search_space(),
                user_attrs={"layers": found[0].layers.text(DONORS)},
            )
        )
    assert len(study.trials) >= 25
