"""Two donors on a GPU, resident and offloaded, and the time of a step of a layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import Checkpoint
from optlayers.config.graft import Graft
from optlayers.evaluation.costs import layer_costs
from optlayers.evaluation.engine import Engine
from optlayers.evaluation.questions import Question, Request
from optlayers.inference import offload as residency
from optlayers.inference.stack import LayerStack
from optlayers.layerset import LayerSet, LayerSpace
from tests.helpers.engine import EveryLikelihood
from tests.helpers.tiny import tiny_llama

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda:0")


def stack_of(pair: Path, other: Path, memory: int | None) -> LayerStack:
    base, *donors = (Checkpoint(path.name, path) for path in (pair / "base", pair / "donor", other))
    graft = Graft(maps=(None, None), donors=("a", "b"))
    return LayerStack.load(Parents(base, tuple(donors)), CUDA, torch.float32, memory, graft=graft)


def test_layers_of_two_donors_give_the_same_when_offloaded(
    tiny_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency, "RESERVE", 0)
    tiny_llama(seed=9).save_pretrained(tmp_path / "second")
    rng = np.random.default_rng(0)
    questions = []
    for i in range(20):
        tokens = tuple(int(t) for t in rng.integers(1, 1000, int(rng.integers(20, 90))))
        questions.append(Question(0, i, tuple(Request(tokens, (c,)) for c in (7, 8))))
    every = [LayerSet(()), *LayerSpace(6, 1, 2, ("a", "b"))]
    sets = every[::7]
    found = []
    for memory in (None, 700_000, 500_000):
        stack = stack_of(tiny_pair, tmp_path / "second", memory)
        assert any(side.layers.offloaded for side in stack.sides) == (memory is not None)
        engine = Engine(stack, EveryLikelihood(), CUDA, budget=512, packed=stack.fused)
        found.append(engine.likelihoods(sets, questions))
        for costs in layer_costs("latency", stack):
            assert all(0 < seconds < 1 for seconds in costs)
    assert np.isfinite(found[0]).all()
    assert len({row.tobytes() for row in found[0]}) == len(sets)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
