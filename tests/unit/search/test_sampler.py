from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.study import Study, StudyDirection
from optuna.trial import Trial, TrialState

from optlayers.errors import InputError
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search import PatternGASampler, Phase
from optlayers.search.history import individuals_from
from optlayers.search.selection import select_parents
from optlayers.trials import keys
from optlayers.trials.record import read_records


def value(layers: LayerSet) -> float:
    return sum({1: 0.3, 4: 0.2, 6: 0.1}.get(i, -0.02) for i in layers)


def new_sampler(seed: int = 0, **changes: object) -> PatternGASampler:
    settings: dict[str, object] = {
        "n_layers": 8,
        "min_layers": 1,
        "max_layers": 3,
        "population_size": 6,
        "seed": seed,
        **changes,
    }
    return PatternGASampler(**settings)  # type: ignore[arg-type]


def ask_and_tell(study: Study, sampler: PatternGASampler, trials: int) -> list[LayerSet]:
    """Every third trial is pruned."""
    found = []
    for i in range(trials):
        trial = study.ask(sampler.search_space())
        layers = LayerSet.from_params(trial.params)
        found.append(layers)
        if i % 3 == 2:
            trial.report(value(layers), 10)
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, value(layers))
    return found


def new_study(
    sampler: PatternGASampler, direction: StudyDirection = StudyDirection.MAXIMIZE
) -> Study:
    return optuna.create_study(direction=direction, sampler=sampler)


def numbered(sets: Sequence[LayerSet]) -> list[str]:
    return [str(layers) for layers in sets]


def test_asked_sets_keep_the_budget_and_never_repeat_until_all_are_seen() -> None:
    sampler = new_sampler()
    found = ask_and_tell(new_study(sampler), sampler, sampler.space.size)
    assert sorted(found) == sorted(LayerSpace(8, 1, 3))


def test_when_all_are_seen_the_best_known_set_is_given_again() -> None:
    sampler = new_sampler()
    study = new_study(sampler)
    found = ask_and_tell(study, sampler, sampler.space.size + 2)
    assert found[-1] == max(found, key=value) == LayerSet.of(1, 4, 6)
    assert sampler.propose(study, 3) == []


def test_claimed_sets_are_not_proposed_again() -> None:
    sampler = new_sampler()
    study = new_study(sampler)
    asked = [study.ask(sampler.search_space()) for _ in range(40)]
    study.enqueue_trial(LayerSpace(8).params(LayerSet.of(0, 7)))
    found = [LayerSet.from_params(trial.params) for trial in asked]
    more = [p.layers for p in sampler.propose(study, 99)]
    assert len({*found, *more, LayerSet.of(0, 7)}) == sampler.space.size


def suggest(trial: Trial) -> dict[str, Any]:
    """All layers as plain suggestions."""
    names = [f"layer_{i:02d}" for i in range(8)]
    return {name: trial.suggest_categorical(name, ["base", "donor"]) for name in names}


@pytest.mark.parametrize("direction", [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE])
@pytest.mark.parametrize("kind", ["infinite", "pruned", "reported"])
def test_sets_without_a_finite_score_are_not_proposed_again(
    direction: StudyDirection, kind: str
) -> None:
    sampler = new_sampler()
    study = optuna.create_study(direction=direction, sampler=sampler)
    sign = 1 if direction == StudyDirection.MAXIMIZE else -1
    found: list[LayerSet] = []

    def objective(trial: Trial) -> float:
        found.append(LayerSet.from_params(suggest(trial)))
        bad = 4 in found[-1]
        if kind == "infinite":
            return sign * (float("-inf") if bad else value(found[-1]))
        if kind == "reported":
            trial.report(float("nan") if trial.number % 2 else sign * float("-inf"), 1)
        elif bad:
            raise optuna.TrialPruned
        return sign * value(found[-1])

    study.optimize(objective, n_trials=60)
    assert len(set(found)) == len(found)
    left = [p.layers for p in sampler.propose(study, 99)]
    assert len({*found, *left}) == sampler.space.size


def test_optimize_with_plain_suggestions_works() -> None:
    sampler = new_sampler()
    study = new_study(sampler)

    def objective(trial: Trial) -> float:
        chosen = LayerSet.from_params(suggest(trial)).indices
        rate = trial.suggest_float("rate", 0.0, 1.0)
        assert 1 <= len(chosen) <= 3
        return value(LayerSet(tuple(chosen))) + 0.0 * rate

    study.optimize(objective, n_trials=60)
    assert LayerSet.from_params(study.best_params) == LayerSet.of(1, 4, 6)
    assert len({r.layers for r in read_records(study.trials)}) == 60
    assert len({trial.params["rate"] for trial in study.trials}) == 60


@pytest.mark.parametrize("direction", [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE])
def test_both_directions_are_followed(direction: StudyDirection) -> None:
    sign = 1 if direction == StudyDirection.MAXIMIZE else -1
    sampler = PatternGASampler(n_layers=24, max_layers=4, population_size=10, seed=3)
    study = new_study(sampler, direction)
    for _ in range(150):
        trial = study.ask(sampler.search_space())
        study.tell(trial, sign * value(LayerSet.from_params(trial.params)))
    values = [sign * (t.value or 0.0) for t in study.trials]
    assert sum(values[-50:]) / 50 > sum(values[:10]) / 10 + 0.1
    assert max(values) >= 0.5


@pytest.mark.parametrize("direction", [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE])
def test_patience_ends_a_study_that_finds_nothing_better(direction: StudyDirection) -> None:
    sampler = new_sampler(n_layers=12, patience=2)
    study = new_study(sampler, direction)
    sign = 1.0 if direction == StudyDirection.MAXIMIZE else -1.0

    def objective(trial: Trial) -> float:
        for name in sampler.search_space():
            trial.suggest_categorical(name, ["base", "donor"])
        # The second generation of six is better than the first; nothing is after that.
        return sign * min(trial.number, 9)

    assert not sampler.out_of_patience(study)
    study.optimize(objective, n_trials=100)
    # It is known when the fourth generation is finished, which the next trial sees.
    assert len(study.trials) == 25
    assert sampler.out_of_patience(study)
    assert not new_sampler(n_layers=12).out_of_patience(study)
    study.tell(study.ask(sampler.search_space()), 0.0)
    with pytest.raises(InputError, match="patience is 0"):
        new_sampler(patience=0)


def test_the_same_seed_and_history_give_the_same_sets() -> None:
    runs = []
    for seed in (5, 5, 6):
        sampler = new_sampler(seed)
        runs.append(numbered(ask_and_tell(new_study(sampler), sampler, 40)))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_a_run_resumed_with_a_new_sampler_goes_on_as_if_never_stopped() -> None:
    whole = new_sampler()
    expected = ask_and_tell(new_study(whole), whole, 42)
    first = new_sampler()
    study = new_study(first)
    found = ask_and_tell(study, first, 21)
    study.sampler = second = pickle.loads(pickle.dumps(new_sampler()))
    found += ask_and_tell(study, second, 21)
    assert found == expected


def test_propose_gives_what_ask_would_and_distinct_sets() -> None:
    sampler = new_sampler()
    study = new_study(sampler)
    ask_and_tell(study, sampler, 20)
    proposals = sampler.propose(study, 10)
    assert len({p.layers for p in proposals}) == 10
    assert {p.phase for p in proposals} == {Phase.explore}
    assert [p.generation for p in proposals] == [3] * 4 + [4] * 6
    asked = study.ask(sampler.search_space())
    assert LayerSet.from_params(asked.params) == proposals[0].layers


def test_reseeding_changes_the_proposals() -> None:
    sampler = new_sampler()
    study = new_study(sampler)
    before = sampler.propose(study, 10)
    assert sampler.propose(study, 10) == before
    sampler.reseed_rng()
    assert sampler.propose(study, 10) != before


def test_pruned_trials_fill_generations_and_become_parents() -> None:
    sampler = new_sampler()
    study = new_study(sampler)
    for _ in range(6):
        trial = study.ask(sampler.search_space())
        trial.report(value(LayerSet.from_params(trial.params)), 10)
        study.tell(trial, state=TrialState.PRUNED)
    assert sampler.propose(study, 1)[0].generation == 1
    found = individuals_from(read_records(study.trials), space=sampler.space, population_size=6)
    assert len(select_parents(found, population_size=6, n_elites=3)) == 6


def test_a_full_score_replaces_the_fast_one_of_the_same_set() -> None:
    sampler = new_sampler(population_size=2)
    study = new_study(sampler)
    for layers, score, questions, state in (
        ("1,4", 0.9, 50, TrialState.PRUNED),
        ("2,3", 0.6, 50, TrialState.PRUNED),
        ("1,4", 0.5, 5000, TrialState.COMPLETE),
    ):
        study.add_trial(
            optuna.create_trial(
                state=state,
                value=score,
                user_attrs={keys.LAYERS: layers, keys.QUESTIONS: questions, keys.SCORE: score},
            )
        )
    found = individuals_from(read_records(study.trials), space=sampler.space, population_size=2)
    assert max(found, key=lambda i: i.fitness).layers == LayerSet.of(2, 3)


def test_a_set_that_failed_three_times_is_not_proposed_again() -> None:
    sampler = new_sampler(known_sets=[[1, 4]])
    study = new_study(sampler)
    asked = []
    for _ in range(5):
        trial = study.ask(sampler.search_space())
        asked.append(LayerSet.from_params(trial.params))
        study.tell(trial, state=TrialState.FAIL)
    assert asked[:3] == [LayerSet.of(1, 4)] * 3
    assert LayerSet.of(1, 4) not in asked[3:]


def test_threads_of_one_process_repeat_nothing(tmp_path: Path) -> None:
    sampler = new_sampler()
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(storage=url, direction="maximize", sampler=sampler)

    def objective(trial: Trial) -> float:
        for name in sampler.search_space():
            trial.suggest_categorical(name, ["base", "donor"])
        return value(LayerSet.from_params(trial.params))

    study.optimize(objective, n_trials=21, n_jobs=3)
    records = read_records(study.trials)
    assert len(records) == 21
    assert len({r.layers for r in records}) == 21


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="max is 9"):
        new_sampler(max_layers=9)
    with pytest.raises(InputError, match="3 scores for 8 layers"):
        new_sampler(single_layer_scores=[0.1, 0.2, 0.3])
