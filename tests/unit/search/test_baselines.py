"""The other searches, on a landscape whose best sets are known."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from optuna.pruners import NopPruner, SuccessiveHalvingPruner
from optuna.trial import TrialState

from optlayers.config.study import StudyDefinition, parse_study
from optlayers.errors import InputError
from optlayers.layerset import LayerSet
from optlayers.search import LayerSetSampler, Phase, RacingPruner, plan, pruner_for, sampler_for
from optlayers.trials.record import Record

N = 8
NAMES = ["pattern-ga", "tpe", "nsgaii", "random", "greedy", "beam"]


def study(sampler: str, least: int = 1, most: int = 3, **explore: Any) -> StudyDefinition:
    settings = {"population": 8, "generations": 40, "patience": 40, "sampler": sampler, **explore}
    text = (
        "{name: x, base: {model: b}, donor: {model: d}, tasks: [{name: t}], "
        f"layers: {{min: {least}, max: {most}}}, validate: {{top: 0}}, refine: {{top: 0}}, "
        f"explore: {settings}}}"
    ).replace("'", "")
    from pathlib import Path

    return parse_study(text, "x.yaml", Path())


def additive(layers: LayerSet) -> float:
    return 0.2 + sum(0.02 * i for i in layers)


def trap(layers: LayerSet) -> float:
    """The best single layer is in no good pair."""
    return {(7,): 0.5, (0, 1): 0.9, (0,): 0.4, (1,): 0.35}.get(layers.indices, 0.3)


def record(number: int, layers: LayerSet, score: float, phase: Phase) -> Record:
    return Record(
        number=number,
        state=TrialState.COMPLETE,
        layers=layers,
        phase=phase.value,
        goal="race",
        questions=100,
        score=score,
        fidelity="full",
        intermediate={100: score},
    )


def run(definition: StudyDefinition, score: Callable[[LayerSet], float], k: int) -> list[LayerSet]:
    """The sets in the order in which a whole study evaluates them."""
    records: list[Record] = []
    sampler: LayerSetSampler = sampler_for(definition, N)
    while True:
        found = plan(definition, N, records, sampler, k)
        if found.phase == Phase.done:
            return [r.layers for r in records]
        assert found.proposals
        sets = [p.layers for p in found.proposals]
        assert len(set(sets)) == len(sets)
        for proposal in found.proposals:
            layers = proposal.layers
            records.append(record(len(records), layers, score(layers), proposal.phase))


@pytest.mark.parametrize("name", NAMES)
def test_every_search_stays_in_the_budget_and_repeats_nothing(name: str) -> None:
    sets = run(study(name, generations=6), additive, 5)
    assert len(set(sets)) == len(sets)
    assert all(1 <= len(s) <= 3 for s in sets)
    probed = sets[:N]
    assert sorted(probed) == [LayerSet.of(i) for i in range(N)]
    assert len(sets) >= (N + 13 if name == "greedy" else 40)


@pytest.mark.parametrize("name", ["tpe", "nsgaii", "random"])
def test_a_search_that_runs_on_ends_with_the_space(name: str) -> None:
    sets = run(study(name, most=2), additive, 7)
    assert len(sets) == len(set(sets)) == N + N * (N - 1) // 2


def test_greedy_adds_the_best_layer_and_a_beam_looks_beside_it() -> None:
    sets = run(study("greedy"), additive, 100)
    assert len(sets) == 8 + 7 + 6
    assert set(sets[8:15]) == {LayerSet.of(7, i) for i in range(7)}
    assert set(sets[15:]) == {LayerSet.of(6, 7, i) for i in range(6)}
    assert LayerSet.of(0, 1) not in run(study("greedy", most=2), trap, 100)
    assert LayerSet.of(0, 1) in run(study("beam", most=2), trap, 100)


def test_greedy_gives_the_same_whatever_the_cohort_and_starts_at_the_least_size() -> None:
    assert set(run(study("greedy"), additive, 1)) == set(run(study("greedy"), additive, 100))
    sets = run(study("greedy", least=2), additive, 100)
    assert set(sets[N : N + 7]) == {LayerSet.of(7, i) for i in range(7)}


def test_tpe_learns_and_goes_on_from_the_trials_of_an_earlier_run() -> None:
    def gained(definition: StudyDefinition) -> float:
        sets = run(definition, additive, 4)
        return sum(additive(s) for s in sets[N:40]) / len(sets[N:40])

    tpe = study("tpe", generations=4)
    assert gained(tpe) > gained(study("random", generations=4)) + 0.02
    # A second worker, or a later one, tells its own sampler what is finished.
    records = [
        record(i, LayerSet(s), additive(LayerSet(s)), Phase.explore)
        for i, s in enumerate(itertools.combinations(range(N), 2))
    ]
    later = sampler_for(tpe, N, seed=1)
    found = [p.layers for p in later.propose_from(records, 6)]
    assert len(set(found)) == 6
    assert not {r.layers for r in records} & set(found)
    mean = sum(max(s.indices) for s in found) / 6
    assert mean > 4


def test_pruners_by_name() -> None:
    def pruner(name: str) -> object:
        return pruner_for(study("random", pruner=name), 48)

    assert isinstance(pruner("racing"), RacingPruner)
    assert isinstance(pruner("halving"), SuccessiveHalvingPruner)
    assert isinstance(pruner("none"), NopPruner)


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(InputError, match="--sampler is 'ga'; choose one of pattern-ga, tpe"):
        study("random").exploring("ga", None)
    with pytest.raises(InputError, match="--pruner is 'sha'; choose one of racing, halving, none"):
        study("random").exploring(None, "sha")
