"""How often a search finds the best, and after how many layer sets: rates over many seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest

from optlayers.config.study import StudyDefinition
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search import PatternGASampler, Rungs, pairs
from optlayers.search.genetic import GeneticSearch
from optlayers.search.individual import Individual
from optlayers.testing.simulation import Simulation
from optlayers.trials.ranking import best_by_layers
from optlayers.trials.record import Record
from tests.helpers.search_landscape import N_FAST, N_FULL, N_LAYERS, SyntheticPair, landscape_of


def definition(seed: int, **changes: Any) -> StudyDefinition:
    fields: dict[str, Any] = {
        "name": "simulated",
        "base": {"model": "base"},
        "donor": {"model": "donor"},
        "layers": {"min": 1, "max": 4},
        "tasks": [{"name": "made_up"}],
        "explore": {"population": 12, "generations": 12, "patience": 5},
        "validate": {"top": 6},
        "refine": {"top": 2, "verify": 4, "rounds": 5},
        "seed": seed,
    }
    return StudyDefinition.model_validate({**fields, **changes})


def study_of(
    landscape: SyntheticPair, seed: int, failing: frozenset[LayerSet] = frozenset()
) -> Simulation:
    return Simulation(
        definition(seed),
        N_LAYERS,
        Rungs(N_FAST, N_FULL, landscape.strata),
        lambda layers, n: None if layers in failing else landscape.answers(layers, n),
    )


def search(seed: int, workers: int = 3) -> Simulation:
    study = study_of(landscape_of(seed), seed)
    study.run(workers, seed)
    return study


def best_full(records: list[Record]) -> Record:
    full = [r for r in best_by_layers(records).values() if r.is_full]
    return max(full, key=lambda r: r.score or 0.0)


PAIRS = ({1, 6}, {8, 11})


def skill_of_pairs(layers: LayerSet) -> float:
    """Two pairs that are worth something only together, and four decoys."""
    held = set(layers)
    return sum(0.2 for pair in PAIRS if pair <= held) + 0.07 * len(held & {0, 3, 4, 9})


def evaluated_until_found(seed: int) -> int:
    """Sets that a search looks at before it meets both pairs; at most 330."""
    space = LayerSpace(n_layers=12, min_layers=1, max_layers=4)
    search = GeneticSearch(space=space, population_size=12)
    known = {LayerSet.of(i): skill_of_pairs(LayerSet.of(i)) for i in range(12)}
    people = [Individual(s, value) for s, value in known.items()]
    while len(people) < 330:
        rng = np.random.default_rng([seed, len(people)])
        for layers, generation in search.propose(people, (), rng, 4):
            assert layers not in known
            assert generation is not None
            known[layers] = skill_of_pairs(layers)
            people.append(Individual(layers, known[layers], generation))
        if any((PAIRS[0] | PAIRS[1]) <= set(s) for s in known):
            break
    return len(people)


class SearchSuite:
    """What a search must find; a subclass says over how many seeds."""

    seeds: int

    def test_the_true_best_is_found_for_nearly_every_seed(self) -> None:
        found = sum(
            best_full(search(seed).records).layers in landscape_of(seed).best()[1]
            for seed in range(self.seeds)
        )
        assert found >= 0.75 * self.seeds

    def test_the_sampler_needs_far_fewer_sets_than_random_draws(self) -> None:
        needed = []
        for seed in range(self.seeds):
            landscape = landscape_of(seed)
            _, best = landscape.best()
            sampler = PatternGASampler(n_layers=N_LAYERS, population_size=20, seed=seed)
            study = optuna.create_study(direction="maximize", sampler=sampler)
            for _ in range(600):
                trial = study.ask(sampler.search_space())
                layers = LayerSet.from_params(trial.params)
                study.tell(trial, landscape.score(layers))
                if layers in best:
                    break
            needed.append(len(study.trials))
        # Random draws without repetition need half of the 2,516 sets in the median.
        assert np.median(needed) < 300

    def test_a_search_finds_two_pairs_that_say_nothing_alone(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looking = [evaluated_until_found(seed) for seed in range(self.seeds)]
        monkeypatch.setattr(pairs, "LARGEST_SHARE", 0.0)
        without = [evaluated_until_found(seed) for seed in range(self.seeds)]
        assert max(looking) < 330
        assert np.mean(looking) < 0.8 * np.mean(without)
