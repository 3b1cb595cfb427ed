"""Eight-bit projections in plain torch, alone and in the engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.lib.engine_inputs import FirstIsRight
from optlayers.checkpoints.parents import Parents
from optlayers.errors import ModelError
from optlayers.evaluation.engine import Engine
from optlayers.evaluation.questions import Question, Request
from optlayers.inference.fp8 import PlainEightBitOps, Quantised, add_eight_bit, projections
from optlayers.inference.stack import LayerStack
from optlayers.layerset import LayerSet

CPU = torch.device("cpu")


def test_each_row_is_scaled_to_the_range_of_the_format() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 64) * torch.logspace(-6, 6, 7)[:, None]
    x[3] = 0
    rows = Quantised.of(x)
    assert rows.values.dtype == torch.float8_e4m3fn
    assert rows.values.float().abs().amax(1).tolist() == [448, 448, 448, 0, 448, 448, 448]
    # Three bits behind the leading one: half a unit of 2**-3 at most, relative to the value.
    near = (rows.wide() - x).abs() <= x.abs() / 16 + x.abs().amax(1, keepdim=True) / 448 / 512
    assert bool(near.all())


def test_a_width_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match="multiples of 16 and a projection has 24 inputs"):
        add_eight_bit(nn.Sequential(nn.Linear(24, 32)))


def test_outputs_are_padded_to_whole_tiles() -> None:
    layer = nn.Sequential(nn.Linear(32, 20))
    add_eight_bit(layer)
    (owner,) = projections(layer)
    rows = owner.eight_bit
    assert isinstance(rows, Quantised)
    assert rows.values.shape == (32, 32)
    assert rows.scale.shape == (32, 1)


def test_coarse_answers_differ_only_where_choices_are_close(tiny_parents: Parents) -> None:
    stack = LayerStack.load(tiny_parents, CPU, torch.float32)
    stack.coarse_ops = PlainEightBitOps()
    rng = np.random.default_rng(0)
    questions = []
    for document in range(20):
        asked = tuple(int(t) for t in rng.integers(1, 1000, 30))
        requests = tuple(Request(asked, (choice,)) for choice in (7, 8, 9, 10))
        questions.append(Question(0, document, requests))
    sets = [LayerSet.of(), LayerSet.of(1, 4)]
    engine = Engine(stack, FirstIsRight(), CPU, packed=True)
    exact, coarse = (engine.likelihoods(sets, questions, c)[..., 0] for c in (False, True))
    error = np.abs(coarse - exact).max()
    # Random layers amplify what is rounded; trained ones hardly do (benchmarks/README.md).
    assert 0.001 < (coarse - exact).std() / exact.std() < 0.5
    ahead = np.diff(np.sort(exact.reshape(2, -1, 4), axis=2)[..., -2:], axis=2)[..., 0]
    same = exact.reshape(2, -1, 4).argmax(2) == coarse.reshape(2, -1, 4).argmax(2)
    assert same[ahead > 2 * error].all()
    assert len(engine.answers(sets, questions, coarse=True)) == 2


def test_only_a_gpu_multiplies_in_eight_bits(tiny_parents: Parents) -> None:
    stack = LayerStack.load(tiny_parents, CPU, torch.float32)
    with pytest.raises(ModelError, match="fp8 needs fused layers"):
        stack.add_eight_bit()


def test_torch_still_has_the_private_product_of_eight_bit_matrices() -> None:
    assert hasattr(torch, "_scaled_mm"), (
        "torch._scaled_mm has moved in this version of torch: adapt "
        "optlayers/inference/fp8_kernels.py, and the bounds of torch in pyproject.toml"
    )
