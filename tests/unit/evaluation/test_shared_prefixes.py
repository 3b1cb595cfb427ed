from __future__ import annotations

import numpy as np
import pytest
import torch

from optlayers.config.study import StudyDefinition, load_study
from optlayers.errors import EvaluationError
from optlayers.evaluation.engine import Engine
from optlayers.evaluation.evaluator import ModelEvaluator
from optlayers.evaluation.questions import Question
from optlayers.inference.prefix_tree import layer_passes, walk
from optlayers.layerset import LayerSet, LayerSpace


@pytest.fixture(scope="module")
def definition() -> StudyDefinition:
    return load_study("demo")


@pytest.fixture(scope="module")
def questions(evaluator: ModelEvaluator) -> list[Question]:
    order = evaluator.order
    return evaluator.tasks.questions(order.subject[:24].tolist(), order.document[:24].tolist())


Path = tuple[tuple[int, int], ...]


def cohort(seed: int, count: int) -> list[LayerSet]:
    rng = np.random.default_rng(seed)
    return [
        LayerSet(tuple(int(i) for i in rng.choice(16, int(rng.integers(0, 5)), replace=False)))
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_the_walk_runs_every_set_through_its_own_layers(seed: int) -> None:
    sets = cohort(seed, 20)
    arrived: dict[int, Path] = {}
    passes = 0

    def run(layer: int, origin: int, state: Path) -> Path:
        nonlocal passes
        passes += 1
        return (*state, (layer, origin))

    nowhere: Path = ()
    walk(sets, LayerSpace(16), nowhere, run, arrived.__setitem__)
    for i, layers in enumerate(sets):
        assert arrived[i] == tuple((layer, layer in layers) for layer in range(16))
    prefixes = {arrived[i][:n] for i in range(20) for n in range(1, 17)}
    assert passes == layer_passes(sets, LayerSpace(16)) == len(prefixes)


def test_a_cohort_gives_each_set_what_it_gets_alone_to_the_last_bit(
    evaluator: ModelEvaluator, questions: list[Question]
) -> None:
    sets = cohort(7, 6)
    engine = evaluator.engine
    together = engine.likelihoods(sets, questions)
    for i, layers in enumerate(sets):
        np.testing.assert_array_equal(together[i], engine.likelihoods([layers], questions)[0])
    assert len({row.tobytes() for row in together}) == len(set(sets))
    assert engine.work.saved_layer_tokens > 0


def test_the_batch_size_changes_rounding_alone(
    evaluator: ModelEvaluator, questions: list[Question]
) -> None:
    sets = cohort(8, 2)
    small = Engine(evaluator.stack, evaluator.tasks, torch.device("cpu"), 64)
    large = Engine(evaluator.stack, evaluator.tasks, torch.device("cpu"), 4096)
    np.testing.assert_allclose(
        small.likelihoods(sets, questions), large.likelihoods(sets, questions), atol=1e-4
    )


@pytest.mark.parametrize("packed", [False, True])
def test_the_order_of_the_questions_changes_rounding_alone(
    evaluator: ModelEvaluator, questions: list[Question], packed: bool
) -> None:
    sets = cohort(9, 2)
    kept, sorted_ = (
        Engine(evaluator.stack, evaluator.tasks, torch.device("cpu"), 300, packed, sort=sort)
        for sort in (False, True)
    )
    found = kept.likelihoods(sets, questions)
    np.testing.assert_allclose(found, sorted_.likelihoods(sets, questions), atol=1e-4)


def test_nan_in_one_layer_fails_only_the_sets_that_use_it(questions: list[Question]) -> None:
    evaluator = ModelEvaluator(load_study("demo"), torch.device("cpu"), torch.float32)
    sets = [LayerSet.of(0), LayerSet.of(0, 5)]
    before = evaluator.engine.answers(sets, questions)
    weight = next(evaluator.stack.sides[1].layers[5].parameters())
    weight.data = weight.data.clone().fill_(torch.nan)
    after = evaluator.engine.answers(sets, questions)
    assert isinstance(after[1], EvaluationError)
    assert "NaN" in str(after[1])
    assert not isinstance(after[0], EvaluationError)
    assert not isinstance(before[0], EvaluationError)
    np.testing.assert_array_equal(after[0], before[0])
