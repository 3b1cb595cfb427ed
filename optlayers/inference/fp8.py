"""Projections in eight bits (float8 e4m3): the format, and reference operations.

Each row of weights and each token has its own scale (Micikevicius et al., "FP8 formats for
deep learning", 2022), which makes a product accurate to two or three per cent. Norms, attention,
recurrence, embedding and head keep their dtype. Shapes: T packed tokens, K inputs, N outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from optlayers.errors import ModelError
from optlayers.inference.flat import GROUPS, weight_and_bias
from optlayers.inference.packed import Ops

KIND = torch.float8_e4m3fn
LARGEST = 448.0  # the largest value of the format
TILE = 16  # both sides of a product are multiples of it


@dataclass(frozen=True)
class Quantised:
    """A matrix in eight bits, values * scale: values [T, K], scale [T, 1] in float32."""

    values: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor) -> Quantised:
        """x [T, K] in eight bits; `fp8_kernels.quantise` does the same on a GPU."""
        wide = x.float()
        scale = wide.abs().amax(1, keepdim=True).clamp_min(1e-12) / LARGEST
        return cls((wide / scale).to(KIND), scale)

    def wide(self) -> torch.Tensor:
        """The matrix in float32 [T, K]."""
        return self.values.float() * self.scale


def projections(layer: nn.Module) -> Iterator[nn.Module]:
    """The owners that `FusedOps.project` gets: linear layers, and those of joined projections."""
    joined = {name for _, names in GROUPS for name in names}
    for name, module in layer.named_modules():
        alone = isinstance(module, nn.Linear) and name.rpartition(".")[2] not in joined
        if alone or hasattr(module, "joined_weight"):
            yield module


def add_eight_bit(layer: nn.Module) -> None:
    """Add eight-bit copies of a layer's projections; raises `ModelError` for other widths."""
    for owner in projections(layer):
        weight, _ = weight_and_bias(owner)
        if weight.shape[1] % TILE:
            raise ModelError(
                f"fp8 needs widths that are multiples of {TILE} and a projection has "
                f"{weight.shape[1]} inputs; leave questions.fast_precision out"
            )
        padded = F.pad(weight, (0, 0, 0, -weight.shape[0] % TILE))
        owner.eight_bit = Quantised.of(padded)  # type: ignore[assignment]


class PlainEightBitOps(Ops):
    """The reference of `EightBitOps`: rounds to eight bits, multiplies in float32."""

    def project(self, owner: Any, x: Any) -> torch.Tensor:
        """See `packed.Ops`."""
        weight, bias = weight_and_bias(owner)
        wide = Quantised.of(weight).wide()
        return F.linear(Quantised.of(x).wide(), wide).to(x.dtype) + (0 if bias is None else bias)
