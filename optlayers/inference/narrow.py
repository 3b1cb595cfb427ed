"""Packed layers that are narrow, on a CPU: sequences padded to one length and run at once.

Layers of a few hundred channels spend more time on passes over memory than on products, so results
are written in place, into memory that is still in the cache. Shapes: R sequences of T tokens,
E hidden size, H heads, P head width, G groups, N state size.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import torch
import torch.nn.functional as F

from optlayers.inference.packed import Ops, PackedBatch
from optlayers.models.parts import Rotary
from optlayers.models.ssd import LOG2_E, MIN_EXPONENT, log_decay, ssd

# Products dominate in wider layers.
WIDEST = 1_024
# Sequences up to this length are one chunk, since the steps between chunks would cost more.
ONE_CHUNK = 128


def can_run_narrow(layer: Any) -> bool:
    """Whether `NarrowOps` can run a layer: it is in float32 and has SwiGLU."""
    act = type(layer.mlp.act_fn).__name__ if hasattr(layer, "mlp") else ""
    weights = {p.dtype for p in layer.parameters()}
    return (
        weights == {torch.float32}
        and act in ("SiLU", "SiLUActivation")
        and hasattr(layer.mlp, "gate_proj")
    )


class NarrowOps(Ops):
    """`Ops` for batches of equal lengths; other batches run as in `Ops`.

    A result is overwritten by the next call of the same method in the same thread.
    """

    def __init__(self) -> None:
        self._buffers = threading.local()

    def _buffer(self, name: str, *shape: int) -> torch.Tensor:
        """The memory of this thread for one purpose, reused because it is still in the cache."""
        buffers: dict[str, Any] = vars(self._buffers)
        whole, views = buffers.setdefault(name, (torch.empty(0), {}))
        if shape not in views:
            size = math.prod(shape)
            if size > len(whole):
                with torch.inference_mode(False):
                    whole, views = buffers[name] = (torch.empty(size), {})
            views[shape] = whole[:size].view(shape)
        found: torch.Tensor = views[shape]
        return found

    def project(self, owner: Any, x: Any) -> torch.Tensor:
        """See `packed.Ops`."""
        return self._projected(x, owner)

    def _projected(self, x: torch.Tensor, *projections: Any) -> torch.Tensor:
        """Several linear layers of one input x [T, in], concatenated: [T, sum of out]."""
        widths = [projection.out_features for projection in projections]
        out = self._buffer("projected", len(x), sum(widths))
        for projection, part in zip(projections, out.split_with_sizes(widths, 1), strict=True):
            if projection.bias is None:
                torch.mm(x, projection.weight.t(), out=part)
            else:
                torch.addmm(projection.bias, x, projection.weight.t(), out=part)
        return out

    def norm(self, module: Any, h: torch.Tensor) -> torch.Tensor:
        """See `packed.Ops`."""
        scale = torch.linalg.vector_norm(h, dim=-1, keepdim=True).square_()
        scale.div_(h.shape[-1]).add_(module.variance_epsilon).rsqrt_()
        return torch.mul(h, scale, out=self._buffer("norm", *h.shape)).mul_(module.weight)

    def attention(
        self, attn: Any, x: torch.Tensor, batch: PackedBatch, rotary: Rotary
    ) -> torch.Tensor:
        """See `packed.Ops`."""
        if not batch.equal_lengths:
            return super().attention(attn, x, batch, rotary)
        rows, length, width = len(batch.begins), batch.lengths[0], attn.head_dim
        queries, keys = (p.weight.shape[0] // width for p in (attn.q_proj, attn.k_proj))
        qkv = self._projected(x, attn.q_proj, attn.k_proj, attn.v_proj)
        qkv = qkv.view(rows, length, -1, width)
        rotated = self._rotated(qkv[:, :, : queries + keys], rotary)
        out = F.scaled_dot_product_attention(
            rotated[:, :, :queries].transpose(1, 2),
            rotated[:, :, queries:].transpose(1, 2),
            qkv[:, :, queries + keys :].transpose(1, 2),
            is_causal=True,
            scale=attn.scaling,
            enable_gqa=True,
        )  # [R, H, T, P]
        return out.transpose(1, 2).reshape(rows * length, queries * width)

    def _rotated(self, x: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        """Rotary embedding of x [R, T, H, P]; cos, sin [1, R * T, P] repeat for each sequence."""
        length, half = x.shape[1], x.shape[-1] // 2
        cos, sin = (part[0, :length, None] for part in rotary)  # [T, 1, P]
        out = torch.mul(x, cos, out=self._buffer("rotated", *x.shape))
        out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
        out[..., half:].addcmul_(x[..., :half], sin[..., half:])
        return out

    def mixer(self, mixer: Any, p: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """See `packed.Ops`; changes p."""
        if not batch.equal_lengths:
            return super().mixer(mixer, p, batch)
        rows, length = len(batch.begins), batch.lengths[0]
        inner, channels = mixer.inner, mixer.conv_channels
        p = p.view(rows, length, -1)
        wide = (rows, length, mixer.heads, mixer.width)
        xbc = mixer.activation(self._convolved(p[..., :channels], mixer.conv1d))
        a_log = p[..., channels + inner :]
        y = self._mixed(xbc, a_log, mixer, wide)
        z = F.silu(p[..., channels : channels + inner].add_(mixer.z_bias), inplace=True)
        out = torch.mul(z.view(wide), y, out=self._buffer("gated", *wide))
        return out.view(rows * length, inner)

    def _convolved(self, xbc: torch.Tensor, conv: Any) -> torch.Tensor:
        """`llamba.ShortConv` of sequences [R, T, channels] without a past."""
        taps = conv.weight[:, 0].t().contiguous()  # [4, channels]
        out = torch.addcmul(conv.bias, xbc, taps[-1], out=self._buffer("convolved", *xbc.shape))
        for back in range(1, min(len(taps), xbc.shape[1])):
            out[:, back:].addcmul_(xbc[:, :-back], taps[-1 - back])
        return out

    def _mixed(
        self, xbc: torch.Tensor, a_log: torch.Tensor, mixer: Any, wide: tuple[int, int, int, int]
    ) -> torch.Tensor:
        """`ssd.ssd` of xbc [R, T, channels] and A_log [R, T, H]: [R, T, H, P]."""
        rows, length, heads, width = wide
        groups, state = mixer.groups, mixer.state_size
        x = xbc[..., : mixer.inner].view(wide)
        bc = xbc[..., mixer.inner :].view(rows, length, 2, groups, state)
        if length > ONE_CHUNK:
            return ssd(x, a_log, bc[:, :, 0], bc[:, :, 1], mixer.D)[0]
        total = log_decay(a_log.transpose(1, 2).contiguous()).mul_(LOG2_E).cumsum(-1)  # [R, H, T]
        future = total.new_full((length, length), -torch.inf).triu_(1)
        weights = self._buffer("weights", rows, heads, length, length)
        torch.sub(total[..., None], total[..., None, :], out=weights)
        weights.clamp_min_(MIN_EXPONENT).add_(future).exp2_()
        b, c = bc.permute(2, 0, 3, 1, 4).reshape(2, rows * groups, length, state)
        near = torch.bmm(c, b.mT, out=self._buffer("near", rows * groups, length, length))
        near = near.view(rows, groups, 1, length, length)
        weights.view(rows, groups, -1, length, length).mul_(near)
        weights.diagonal(dim1=-2, dim2=-1).add_(mixer.D[:, None])
        values = self._buffer("values", rows, heads, length, width).copy_(x.transpose(1, 2))
        out = self._buffer("mixed", rows * heads, length, width)
        torch.bmm(weights.flatten(0, 1), values.flatten(0, 1), out=out)
        return out.view(rows, heads, length, width).transpose(1, 2)

    def swiglu(self, mlp: Any, x: torch.Tensor) -> torch.Tensor:
        """See `packed.Ops`."""
        gate, up = self._projected(x, mlp.gate_proj, mlp.up_proj).chunk(2, dim=-1)
        return torch.mul(F.silu(gate, inplace=True), up, out=self._buffer("swiglu", *up.shape))
