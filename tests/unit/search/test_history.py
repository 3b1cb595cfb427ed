from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from optlayers.layerset import LayerSet
from optlayers.search import LayerSpace
from optlayers.search.history import estimates, individuals_from
from optlayers.search.individual import NO_GENERATION
from optlayers.trials.record import Record
from optlayers.trials.statistics import prior_strength, shrunk

SPACE = LayerSpace(n_layers=6, min_layers=2, max_layers=3)


def record(number: int, text: str, score: float, questions: int | None = 10, **more: Any) -> Record:
    return Record(
        number=number,
        state=more.pop("state", TrialState.PRUNED),
        layers=LayerSet.parse(text),
        score=score,
        questions=questions,
        **more,
    )


def test_few_questions_are_drawn_to_the_mean_of_the_population() -> None:
    scores = np.array([0.9, 0.9, 0.3, 0.4])
    questions = [20, 2000, 20, 20]
    found = estimates(scores, list(questions))
    strength = prior_strength(scores, np.array(questions, np.float64))
    for value, score, n in zip(found, scores, questions, strict=True):
        assert value == pytest.approx(shrunk(score, n, 0.625, strength))
    assert found[0] < found[1] < 0.9
    assert 0.3 < found[2] < found[3] < 0.5


@pytest.mark.parametrize("questions", [[20, 20], [20, None], [None, None]])
def test_equal_or_unknown_fidelity_leaves_scores_alone(questions: list[int | None]) -> None:
    assert estimates(np.array([0.9, 0.1]), questions).tolist() == [0.9, 0.1]


def test_values_that_are_no_shares_are_left_alone() -> None:
    assert estimates(np.array([9.0, 0.1]), [10, 20]).tolist() == [9.0, 0.1]


def test_sets_outside_the_budget_or_not_evaluated_are_no_individuals() -> None:
    records = [
        record(0, "1", 0.5),
        record(1, "1,9", 0.5),
        record(2, "1,2", 0.5, state=TrialState.RUNNING),
        record(3, "1,3", 0.5, state=TrialState.FAIL),
        record(4, "1,4", float("nan")),
        record(5, "1,5", 0.5),
    ]
    found = individuals_from(records, space=SPACE, population_size=2)
    assert [str(i.layers) for i in found] == ["1,5"]


def test_generations_are_as_stated_or_else_by_rank() -> None:
    records = [
        record(0, "0,1", 0.1),
        record(1, "0,2", 0.1, phase="probe"),
        record(2, "0,3", 0.1),
        record(3, "0,4", 0.1),
        record(4, "0,5", 0.1, phase="explore", generation=7),
        record(5, "0,1", 0.1, phase="validate"),
        record(6, "1,2", 0.1, phase="refine"),
    ]
    found = individuals_from(records, space=SPACE, population_size=2)
    assert {str(i.layers): i.generation for i in found} == {
        "0,1": 0,
        "0,2": NO_GENERATION,
        "0,3": 0,
        "0,4": 1,
        "0,5": 7,
        "1,2": NO_GENERATION,
    }


def test_minimising_turns_fitness_round() -> None:
    (found,) = individuals_from(
        [record(0, "0,1", 0.3)], space=SPACE, population_size=2, maximise=False
    )
    assert found.fitness == -0.3
