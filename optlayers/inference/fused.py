"""Packed layers in fused kernels, for NVIDIA GPUs.

Layers must have been flattened (`flat.py`), so that projections of one input are one product.
"""

from __future__ import annotations

from typing import Any

import torch

from optlayers.inference.flat import weight_and_bias
from optlayers.inference.kernels import add_norm, attention, convolve, ssd_packed, swiglu
from optlayers.inference.packed import Ops, PackedBatch
from optlayers.models.parts import Rotary


class FusedOps(Ops):
    """`Ops` in Triton kernels. `project` also takes the owner of several joined projections."""

    def project(self, owner: Any, x: Any) -> torch.Tensor:
        """See `packed.Ops`."""
        return torch.nn.functional.linear(x, *weight_and_bias(owner))

    def norm(self, module: Any, h: torch.Tensor) -> Any:
        """See `packed.Ops`."""
        return add_norm(h, None, module.weight, module.variance_epsilon)[1]

    def add_norm(self, module: Any, h: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """See `packed.Ops`."""
        return add_norm(h, y, module.weight, module.variance_epsilon)

    def attention(self, attn: Any, x: Any, batch: PackedBatch, rotary: Rotary) -> torch.Tensor:
        """See `packed.Ops`."""
        qkv = self.project(attn, x)
        width = attn.head_dim
        heads = (
            attn.q_proj.weight.shape[0] // width,
            attn.k_proj.weight.shape[0] // width,
        )
        cos, sin = (part[0].contiguous() for part in rotary)
        return attention(qkv, cos, sin, batch, heads, attn.scaling)

    def mixer(self, mixer: Any, p: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """See `packed.Ops`."""
        silu = not isinstance(mixer.activation, torch.nn.Identity)
        conv = mixer.conv1d
        return ssd_packed(
            convolve(p, conv.weight, conv.bias, batch, silu),
            p[:, mixer.conv_channels :],
            mixer.D,
            (mixer.heads, mixer.groups, mixer.width, mixer.state_size),
            batch,
            z_bias=mixer.z_bias,
        )

    def swiglu(self, mlp: Any, x: Any) -> Any:
        """See `packed.Ops`."""
        return swiglu(self.project(mlp, x))


def _power_of_2(n: int) -> bool:
    return n >= 16 and n & (n - 1) == 0


def can_fuse(layer: Any) -> bool:
    """Whether the kernels can run a layer: it has SwiGLU, and a head width of a power of two."""
    act = type(layer.mlp.act_fn).__name__
    if act not in ("SiLU", "SiLUActivation") or not hasattr(layer.mlp, "gate_proj"):
        return False
    if hasattr(layer, "mixer"):
        identity = isinstance(layer.mixer.activation, torch.nn.Identity)
        plain = identity or type(layer.mixer.activation).__name__ in ("SiLU", "SiLUActivation")
        return plain and layer.mixer.state_size <= 128
    return _power_of_2(int(layer.self_attn.head_dim))
