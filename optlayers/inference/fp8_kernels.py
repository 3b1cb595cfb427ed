"""Packed layers with projections in eight bits, in Triton; reference: `fp8`.

For NVIDIA GPUs of compute capability 8.9 and above. Shapes: T packed tokens, K inputs, N outputs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from optlayers.errors import ModelError
from optlayers.inference.flat import weight_and_bias
from optlayers.inference.fp8 import KIND, LARGEST, Quantised
from optlayers.inference.fused import FusedOps

NEEDS = (8, 9)  # compute capability


@triton.jit
def _store_row(out, scales, row, cols, ok, wide, K: tl.constexpr, LARGEST: tl.constexpr):
    """Write one row of `wide` in eight bits, with its scale."""
    scale = tl.maximum(tl.max(tl.abs(wide), 0), 1e-12) / LARGEST
    tl.store(scales + row, scale)
    tl.store(out + row * K + cols, (wide / scale).to(out.dtype.element_ty), mask=ok)


@triton.jit
def _quantise_kernel(
    x, out, scales, stride, K: tl.constexpr, BLOCK: tl.constexpr, LARGEST: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    ok = cols < K
    wide = tl.load(x + row * stride + cols, mask=ok, other=0.0).to(tl.float32)
    _store_row(out, scales, row, cols, ok, wide, K, LARGEST)


@triton.jit
def _norm_kernel(
    x, y, weight, sums, out, scales, eps, K: tl.constexpr, BLOCK: tl.constexpr,
    ADD: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    ok = cols < K
    value = tl.load(x + row * K + cols, mask=ok, other=0.0)
    wide = value.to(tl.float32)
    if ADD:
        wide += tl.load(y + row * K + cols, mask=ok, other=0.0).to(tl.float32)
        rounded = wide.to(value.dtype)
        tl.store(sums + row * K + cols, rounded, mask=ok)
        wide = rounded.to(tl.float32)
    wide *= tl.rsqrt(tl.sum(wide * wide, 0) / K + eps)
    wide *= tl.load(weight + cols, mask=ok, other=0.0).to(tl.float32)
    _store_row(out, scales, row, cols, ok, wide, K, LARGEST)


@triton.jit
def _swiglu_kernel(x, out, scales, K: tl.constexpr, BLOCK: tl.constexpr, LARGEST: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    ok = cols < K
    gate = tl.load(x + row * 2 * K + cols, mask=ok, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * K + K + cols, mask=ok, other=0.0).to(tl.float32)
    _store_row(out, scales, row, cols, ok, gate * tl.sigmoid(gate) * up, K, LARGEST)


def _empty(rows: int, width: int, device: torch.device) -> Quantised:
    return Quantised(
        torch.empty(rows, width, dtype=KIND, device=device),
        torch.empty(rows, 1, dtype=torch.float32, device=device),
    )


def _warps(block: int) -> int:
    return 4 if block <= 2048 else 8 if block <= 8192 else 16


def quantise(x: torch.Tensor) -> Quantised:
    """x [T, K] in eight bits; reference: `Quantised.of`."""
    width = x.shape[1]
    made, block = _empty(len(x), width, x.device), triton.next_power_of_2(width)
    _quantise_kernel[(len(x),)](
        x, made.values, made.scale, x.stride(0), width, block, LARGEST, num_warps=_warps(block)
    )
    return made


def add_norm(
    h: torch.Tensor, y: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, Quantised]:
    """h + y (h itself where y is None) [T, K], and its RMSNorm in eight bits."""
    width = h.shape[1]
    made, block = _empty(len(h), width, h.device), triton.next_power_of_2(width)
    sums = h if y is None else torch.empty_like(h)
    _norm_kernel[(len(h),)](
        h, h if y is None else y, weight, sums, made.values, made.scale, eps, width, block,
        y is not None, LARGEST, num_warps=_warps(block),
    )  # fmt: skip
    return sums, made


def swiglu(x: torch.Tensor) -> Quantised:
    """silu(first half) * second half of x [T, 2 K], in eight bits."""
    width = x.shape[1] // 2
    made, block = _empty(len(x), width, x.device), triton.next_power_of_2(width)
    _swiglu_kernel[(len(x),)](
        x, made.values, made.scale, width, block, LARGEST, num_warps=_warps(block)
    )
    return made


def multiply(x: Quantised, weight: Quantised, outputs: int, kind: torch.dtype) -> torch.Tensor:
    """x [T, K] times weight [N or more, K] transposed: [T, outputs] in `kind`."""
    out = torch._scaled_mm(
        x.values,
        weight.values.t(),
        scale_a=x.scale,
        scale_b=weight.scale.t(),
        out_dtype=kind,
        use_fast_accum=True,
    )
    return out[:, :outputs]


class EightBitOps(FusedOps):
    """`FusedOps` with the eight-bit projections that `add_eight_bit` made.

    Raises `ModelError` on a GPU that cannot multiply them.
    """

    def __init__(self) -> None:
        found = torch.cuda.get_device_capability()
        if found < NEEDS:
            raise ModelError(
                f"fp8 needs a GPU of compute capability {NEEDS[0]}.{NEEDS[1]} and this one has "
                f"{found[0]}.{found[1]}; leave questions.fast_precision out"
            )

    def project(self, owner: Any, x: Any) -> torch.Tensor:
        """See `packed.Ops`."""
        weight, bias = weight_and_bias(owner)
        rows = x if isinstance(x, Quantised) else quantise(x)
        out = multiply(rows, owner.eight_bit, weight.shape[0], weight.dtype)
        return out if bias is None else out + bias

    def norm(self, module: Any, h: torch.Tensor) -> Quantised:
        """See `packed.Ops`."""
        return add_norm(h, None, module.weight, module.variance_epsilon)[1]

    def add_norm(
        self, module: Any, h: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, Quantised]:
        """See `packed.Ops`."""
        return add_norm(h, y.contiguous(), module.weight, module.variance_epsilon)

    def swiglu(self, mlp: Any, x: Any) -> Quantised:
        """See `packed.Ops`."""
        return swiglu(self.project(mlp, x))
