"""Fused kernels against their plain references in float64.

Run by hand on a machine with a GPU: `python -m pytest -m gpu tests/gpu`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from optlayers.inference.packed import Ops, PackedBatch
from optlayers.models.llamba import ShortConv
from optlayers.models.ssd import ssd_ref
from tests.helpers.engine import relative_error

pytestmark = pytest.mark.gpu

# Relative error in the norm: float32 sums in another order; bfloat16 rounds to 3 digits.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
PARTS = [(70, 0, -1), (5, 70, 0), (90, 70, 0), (20, 160, 2), (130, 0, -1), (64, 0, -1)]


@pytest.fixture(scope="module")
def batch(cuda: torch.device) -> PackedBatch:
    return PackedBatch.of([([1] * n, start, parent) for n, start, parent in PARTS], cuda)


def draw(*shape: int, like: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, device=like, dtype=dtype)


@pytest.mark.parametrize("width", [96, 4096])
def test_norm_and_sum(cuda: torch.device, dtype: torch.dtype, width: int) -> None:
    from optlayers.inference.kernels import add_norm

    h, y = (draw(77, width, like=cuda, dtype=dtype) for _ in range(2))
    w = draw(width, like=cuda, dtype=dtype)
    total, out = add_norm(h, y, w, 1e-5)
    assert relative_error(total, h.double() + y.double()) < TOLERANCE[dtype]
    wanted = F.rms_norm(h.double() + y.double(), (width,), w.double(), 1e-5)
    assert relative_error(out, wanted) < TOLERANCE[dtype]


def test_swiglu(cuda: torch.device, dtype: torch.dtype) -> None:
    from optlayers.inference.kernels import swiglu

    x = draw(33, 2 * 1000, like=cuda, dtype=dtype)
    assert (
        relative_error(swiglu(x), F.silu(x[:, :1000].double()) * x[:, 1000:].double())
        < TOLERANCE[dtype]
    )


@pytest.mark.parametrize(("queries", "keys", "width"), [(32, 8, 128), (4, 2, 32)])
def test_attention_over_shared_contexts(
    cuda: torch.device, dtype: torch.dtype, batch: PackedBatch, queries: int, keys: int, width: int
) -> None:
    from optlayers.inference.kernels import attention

    tokens = len(batch.tokens)
    qkv = draw(tokens, (queries + 2 * keys) * width, like=cuda, dtype=dtype)
    cos, sin = (draw(tokens, width // 2, like=cuda, dtype=dtype).repeat(1, 2) for _ in range(2))
    ends = [0, queries * width, (queries + keys) * width, (queries + 2 * keys) * width]

    def take(i: int) -> Any:
        return lambda x: x[:, ends[i] : ends[i + 1]]

    attn = SimpleNamespace(
        head_dim=width, scaling=width**-0.5, q_proj=take(0), k_proj=take(1), v_proj=take(2)
    )
    rotary = (cos[None].double(), sin[None].double())
    wanted = Ops().attention(attn, qkv.double(), batch, rotary)
    found = attention(qkv.clone(), cos, sin, batch, (queries, keys), width**-0.5)
    assert relative_error(found, wanted) < TOLERANCE[dtype]


def convolution(weight: torch.Tensor, bias: torch.Tensor) -> ShortConv:
    made = ShortConv(len(bias))
    made.weight, made.bias = (torch.nn.Parameter(x, requires_grad=False) for x in (weight, bias))
    return made


def mixer(sizes: tuple[int, int, int, int], cuda: torch.device, dtype: torch.dtype) -> Any:
    heads, groups, width, state_size = sizes
    channels = heads * width + 2 * groups * state_size
    made = SimpleNamespace(
        heads=heads,
        groups=groups,
        width=width,
        state_size=state_size,
        inner=heads * width,
        conv_channels=channels,
        activation=torch.nn.Identity(),
        D=draw(heads, like=cuda, dtype=dtype),
        z_bias=draw(heads * width, like=cuda, dtype=dtype),
        conv1d=convolution(
            draw(channels, 1, 4, like=cuda, dtype=dtype) / 2,
            draw(channels, like=cuda, dtype=dtype) / 10,
        ),
    )
    return made


def in_float64(m: Any) -> Any:
    made = SimpleNamespace(**vars(m))
    made.D, made.z_bias = m.D.double(), m.z_bias.double()
    made.conv1d = convolution(m.conv1d.weight.double(), m.conv1d.bias.double())
    return made


@pytest.mark.parametrize("sizes", [(32, 32, 128, 64), (2, 2, 64, 2), (4, 2, 32, 16)])
def test_the_mixer_branches_from_the_state_of_a_shared_context(
    cuda: torch.device, dtype: torch.dtype, batch: PackedBatch, sizes: tuple[int, int, int, int]
) -> None:
    from optlayers.inference.fused import FusedOps

    m = mixer(sizes, cuda, dtype)
    p = draw(len(batch.tokens), m.conv_channels + m.inner + m.heads, like=cuda, dtype=dtype)
    wanted = Ops().mixer(in_float64(m), p.double(), batch)
    assert relative_error(FusedOps().mixer(m, p, batch), wanted) < TOLERANCE[dtype]


@pytest.mark.parametrize("length", [1, 64, 200, 1024])
def test_ssd_gives_outputs_and_last_state_of_the_recurrence(
    cuda: torch.device, dtype: torch.dtype, length: int
) -> None:
    from optlayers.inference.kernels import ssd_packed

    heads, groups, width, state_size = sizes = (32, 32, 128, 64)
    batch = PackedBatch.of([([1] * length, 0, -1)] * 2, cuda)
    batch.table[3] = torch.arange(2, device=cuda)
    inner, rest = heads * width, groups * state_size
    xbc = draw(2 * length, inner + 2 * rest, like=cuda, dtype=dtype)
    za = draw(2 * length, inner + heads, like=cuda, dtype=dtype)
    D = draw(heads, like=cuda, dtype=dtype)  # noqa: N806
    states = torch.full((2, heads, width, state_size), float("nan"), device=cuda)
    y = ssd_packed(xbc, za, D, sizes, batch, states=states)
    wide, narrow = (2, length, heads, width), (2, length, groups, state_size)
    want_y, want_state = ssd_ref(
        xbc[:, :inner].double().reshape(wide),
        za[:, inner:].double().reshape(2, length, heads),
        xbc[:, inner : inner + rest].double().reshape(narrow),
        xbc[:, inner + rest :].double().reshape(narrow),
        D.double(),
    )
    assert relative_error(y, want_y.reshape(y.shape)) < TOLERANCE[dtype]
    assert relative_error(states, want_state) < TOLERANCE[dtype]
