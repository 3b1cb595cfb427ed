"""A layer of a donor is one whole number to the search; no layer is chosen twice, ever."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search import PatternGASampler
from optlayers.search.baselines import BeamSearch, LayerSetSampler, OptunaSearch, RandomSearch
from optlayers.search.initial import scored_set
from optlayers.search.operators import mutate, repair, uniform_crossover
from optlayers.search.patterns import Pattern
from optlayers.trials.record import read_records

DONORS = ("a", "b", "c")
SPACE = LayerSpace(n_layers=5, min_layers=1, max_layers=3, donors=DONORS)
EVERY = list(SPACE)


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
        layers = sampler.space.from_params(trial.params)
        assert layers in sampler.space
        study.tell(trial, worth(layers))
    records = read_records(study.get_trials())
    assert len({record.layers for record in records}) == 60
    assert max(records, key=lambda r: r.score or 0).layers == LayerSet.of(1, 11)


@pytest.mark.parametrize("name", ["random", "greedy", "tpe"])
def test_other_searches_keep_to_the_space_too(name: str) -> None:
    searches: dict[str, LayerSetSampler] = {
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
                params=SPACE.params(found[0].layers),
                distributions=PatternGASampler(
                    n_layers=5, max_layers=3, donors=DONORS
                ).search_space(),
                user_attrs={"layers": SPACE.text(found[0].layers)},
            )
        )
    assert len(study.trials) >= 25
