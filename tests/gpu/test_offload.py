"""Offloaded layers give what resident layers give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from optlayers.checkpoints.parents import Parents
from optlayers.evaluation.engine import Engine
from optlayers.evaluation.questions import Question, Request
from optlayers.inference import offload as residency
from optlayers.inference.stack import LayerStack
from optlayers.layerset import LayerSet
from tests.helpers.engine import EveryLikelihood

pytestmark = pytest.mark.gpu


def test_offloaded_layers_give_the_same_to_the_last_bit(
    tiny_parents: Parents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency, "RESERVE", 0)
    cuda = torch.device("cuda:0")
    rng = np.random.default_rng(0)
    questions = []
    for i in range(40):
        tokens = tuple(int(t) for t in rng.integers(1, 1000, int(rng.integers(20, 90))))
        questions.append(Question(0, i, tuple(Request(tokens, (c,)) for c in (7, 8))))
    sets = [LayerSet.of(), *(LayerSet.of(i, (i + 2) % 6) for i in range(6))]
    found = []
    for memory in (None, 620_000, 450_000):
        said: list[str] = []
        stack = LayerStack.load(tiny_parents, cuda, torch.float32, memory, said.append)
        assert ("host memory" in said[0]) == (memory is not None)
        engine = Engine(stack, EveryLikelihood(), cuda, budget=512, packed=stack.fused)
        found.append(engine.likelihoods(sets, questions))
    assert np.isfinite(found[0]).all()
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
