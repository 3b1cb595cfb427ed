"""Fused eight-bit kernels against their plain references.

Run by hand on a machine with a GPU: `python -m pytest -m gpu tests/gpu`.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from optlayers.inference.fp8 import Quantised
from tests.helpers.engine import relative_error

pytestmark = pytest.mark.gpu

# Two roundings to three bits, where a value lies between two.
NEAR = 0.01


@pytest.mark.parametrize("width", [32, 96, 4096, 14336])
def test_rows_are_rounded_as_in_the_reference(cuda: torch.device, width: int) -> None:
    from optlayers.inference.fp8_kernels import quantise

    x = torch.randn(77, 2 * width, device=cuda, dtype=torch.bfloat16)[:, :width]
    found, wanted = quantise(x), Quantised.of(x)
    torch.testing.assert_close(found.scale, wanted.scale, rtol=1e-6, atol=0)
    assert relative_error(found.wide(), wanted.wide()) < NEAR
    assert (found.values.float() != wanted.values.float()).float().mean() < 1e-3


@pytest.mark.parametrize("width", [128, 4096])
def test_norm_and_swiglu(cuda: torch.device, width: int) -> None:
    from optlayers.inference.fp8_kernels import add_norm, swiglu

    h, y = (torch.randn(50, width, device=cuda, dtype=torch.bfloat16) for _ in range(2))
    weight = torch.randn(width, device=cuda, dtype=torch.bfloat16)
    sums, found = add_norm(h, y, weight, 1e-5)
    assert torch.equal(sums, h + y)
    wanted = F.rms_norm(sums.float(), (width,), weight.float(), 1e-5)
    assert relative_error(found.wide(), Quantised.of(wanted).wide()) < NEAR
    x = torch.randn(50, 2 * width, device=cuda, dtype=torch.bfloat16)
    gate, up = x.float().chunk(2, dim=1)
    assert relative_error(swiglu(x).wide(), Quantised.of(F.silu(gate) * up).wide()) < NEAR


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(100, 128, 266), (1000, 4096, 12320)])
def test_products(cuda: torch.device, rows: int, inputs: int, outputs: int) -> None:
    from optlayers.inference.fp8_kernels import multiply, quantise

    x = torch.randn(rows, inputs, device=cuda, dtype=torch.bfloat16)
    w = torch.randn(outputs, inputs, device=cuda, dtype=torch.bfloat16) * inputs**-0.5
    weight = Quantised.of(F.pad(w, (0, 0, 0, -outputs % 16)))
    left = quantise(x)
    out = multiply(left, weight, outputs, torch.bfloat16)
    wanted = left.wide().double() @ weight.wide()[:outputs].double().t()
    assert out.shape == (rows, outputs)
    assert relative_error(out, wanted) < 1e-2
    assert relative_error(out, x.double() @ w.double().t()) < 5e-2
