"""Decoder layers on packed tokens: no padding, and a shared context runs once.

A packed batch is a list of segments; each continues its parent, if it has one. Attention sees the
keys of a segment and its ancestors; the recurrence starts from the last state of the parent; all
else runs on all tokens at once. Shapes: T packed tokens, E hidden size, H heads, P head width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from optlayers.models.llamba import CONV_WIDTH
from optlayers.models.parts import Rotary
from optlayers.models.ssd import ssd

QUERY_BLOCK = 64


@dataclass
class PackedBatch:
    """The layout of the segments, on the host (lists) and on the device (int32 tensors).

    begins, lengths, parents [segments]: first packed token, number of tokens, parent or -1.
    slots [segments]: where the last state is stored for children, or -1. table: these four as rows.
    levels: the segments of each depth. blocks [n, 2]: (segment, first query) of each block of
    queries. look [3, T]: the packed tokens 1, 2 and 3 back, or -1. rotary: cos and sin for each
    parent model. keep [K]: the packed tokens to return from the last layer (None: all).
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    begins: list[int]
    lengths: list[int]
    parents: list[int]
    slots: list[int]
    n_slots: int
    table: torch.Tensor
    levels: list[torch.Tensor]
    blocks: torch.Tensor
    look: torch.Tensor
    rotary: list[Rotary | None] = field(default_factory=list)
    keep: torch.Tensor | None = None

    @cached_property
    def equal_lengths(self) -> bool:
        """Whether all segments have one length, and none has a parent."""
        return len(set(self.lengths)) == 1 and max(self.parents) < 0

    @classmethod
    def of(
        cls, parts: Sequence[tuple[Sequence[int], int, int]], device: torch.device
    ) -> PackedBatch:
        """From (tokens, position of the first, parent or -1), parents before children."""
        lengths = [len(part) for part, _, _ in parts]
        parents = [parent for _, _, parent in parts]
        *begins, total = itertools.accumulate(lengths, initial=0)
        depths: list[int] = []
        tokens: list[int] = []
        positions: list[int] = []
        for part, start, parent in parts:
            depths.append(0 if parent < 0 else depths[parent] + 1)
            tokens.extend(part)
            positions.extend(range(start, start + len(part)))
        slots, n_slots = [-1] * len(parts), 0
        for parent in parents:
            if parent >= 0 and slots[parent] < 0:
                slots[parent], n_slots = n_slots, n_slots + 1
        # The longest first, since they finish last.
        levels = [
            sorted((i for i, x in enumerate(depths) if x == d), key=lambda i: (-lengths[i], i))
            for d in range(max(depths, default=-1) + 1)
        ]
        blocks = [(i, q) for i, n in enumerate(lengths) for q in range(0, n, QUERY_BLOCK)]

        def put(data: Any, dtype: torch.dtype = torch.int32) -> torch.Tensor:
            made = torch.as_tensor(data, dtype=dtype)
            if device.type == "cuda":
                made = made.pin_memory()
            return made.to(device, non_blocking=True)

        return cls(
            tokens=put(tokens, torch.long),
            positions=put(positions, torch.long),
            begins=begins,
            lengths=lengths,
            parents=parents,
            slots=slots,
            n_slots=n_slots,
            table=put([begins, lengths, parents, slots]),
            levels=[put(level) for level in levels],
            blocks=put(blocks),
            look=put(_look_back(begins, lengths, parents, total)),
        )


def _look_back(
    begins: list[int], lengths: list[int], parents: list[int], total: int
) -> NDArray[np.int64]:
    """The packed index of the token 1, 2 and 3 back of each token, or -1: [3, T]."""
    found = np.stack([np.arange(total) - back for back in range(1, CONV_WIDTH)])
    for begin, length, parent in zip(begins, lengths, parents, strict=True):
        for back in range(1, CONV_WIDTH):
            for i in range(min(back, length)):
                end = begins[parent] + lengths[parent]
                found[back - 1, begin + i] = end - back + i if parent >= 0 else -1
    return found


class Ops:
    """The parts of a packed layer, run by torch and the model's own modules, segment by segment.

    Subclasses run them faster; this class is their reference. Between `norm`, `add_norm`, `swiglu`
    and `project`, hidden states may have a form that is specific to the subclass (`Any`).
    """

    def project(self, owner: Any, x: Any) -> torch.Tensor:
        """A linear layer on x [T, in]."""
        out: torch.Tensor = owner(x)
        return out

    def norm(self, module: Any, h: torch.Tensor) -> Any:
        """RMSNorm of h [T, E]."""
        return module(h)

    def add_norm(self, module: Any, h: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """h + y [T, E], and its RMSNorm."""
        h = h + y
        return h, self.norm(module, h)

    def attention(self, attn: Any, x: Any, batch: PackedBatch, rotary: Rotary) -> torch.Tensor:
        """Projections, rotation and attention of x [T, E], without the output projection."""
        shape = (x.shape[0], -1, attn.head_dim)
        q, k, v = (proj(x).view(shape) for proj in (attn.q_proj, attn.k_proj, attn.v_proj))
        cos, sin = (part[0][:, None].to(x.dtype) for part in rotary)  # [T, 1, P]
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        out = torch.empty_like(q)
        keys: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for i, (begin, length) in enumerate(zip(batch.begins, batch.lengths, strict=True)):
            own, parent = slice(begin, begin + length), batch.parents[i]
            ks, vs = k[own], v[own]
            if parent >= 0:
                ks, vs = torch.cat([keys[parent][0], ks]), torch.cat([keys[parent][1], vs])
            if batch.slots[i] >= 0:
                keys[i] = (ks, vs)
            mask = None
            if parent >= 0:
                mask = torch.ones(length, len(ks), dtype=torch.bool, device=x.device)
                mask = mask.tril(len(ks) - length)
            out[own] = F.scaled_dot_product_attention(
                q[own].transpose(0, 1)[None],
                ks.transpose(0, 1)[None],
                vs.transpose(0, 1)[None],
                attn_mask=mask,
                is_causal=mask is None,
                scale=attn.scaling,
                enable_gqa=True,
            )[0].transpose(0, 1)
        return out.flatten(1)

    def mixer(self, mixer: Any, p: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Convolution, SSD and gate of the input projection p [T, channels + inner + H]."""
        xbc, z, a_log = p.split_with_sizes([mixer.conv_channels, mixer.inner, mixer.heads], dim=-1)
        out = torch.empty_like(z)
        states: dict[int, torch.Tensor] = {}
        look = CONV_WIDTH - 1
        for i, (begin, length) in enumerate(zip(batch.begins, batch.lengths, strict=True)):
            own, parent = slice(begin, begin + length), batch.parents[i]
            past = xbc.new_zeros(look, xbc.shape[1])
            if parent >= 0:
                end = batch.begins[parent] + batch.lengths[parent]
                past = xbc[end - look : end]
            part = mixer.activation(mixer.conv1d(torch.cat([past, xbc[own]])[None]))
            sizes = [mixer.inner, *[mixer.groups * mixer.state_size] * 2]
            x, b, c = part.split(sizes, dim=-1)
            narrow = (1, length, mixer.groups, mixer.state_size)
            y, state = ssd(
                x.reshape(1, length, mixer.heads, mixer.width),
                a_log[own][None],
                b.reshape(narrow),
                c.reshape(narrow),
                mixer.D,
                initial_state=states.get(parent),
                return_state=batch.slots[i] >= 0,
            )
            if state is not None:
                states[i] = state
            out[own] = y.reshape(length, mixer.inner)
        return out * F.silu(z + mixer.z_bias)

    def swiglu(self, mlp: Any, x: Any) -> Any:
        """act(gate(x)) * up(x), without the down projection."""
        return mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of x [T, H, P]; cos, sin [T, 1, P]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def _llama(
    ops: Ops, layer: Any, x: Any, batch: PackedBatch, rotary: Rotary | None
) -> tuple[torch.Tensor, nn.Module]:
    assert rotary is not None  # every Llama has a rotary embedding
    return ops.attention(layer.self_attn, x, batch, rotary), layer.self_attn.o_proj


def _llamba(
    ops: Ops, layer: Any, x: Any, batch: PackedBatch, rotary: Rotary | None
) -> tuple[torch.Tensor, nn.Module]:
    p = ops.project(layer.mixer.in_proj, x)
    return ops.mixer(layer.mixer, p, batch), layer.mixer.out_proj


# The mixers that have a packed form, by model type: (ops, layer, normed x [T, E], batch, rotary) to
# (y, output projection). Other families run padded, with the same answers.
PACKED: dict[
    str, Callable[[Ops, Any, Any, PackedBatch, Rotary | None], tuple[torch.Tensor, nn.Module]]
] = {"llama": _llama, "llamba": _llamba}


def run_layer(
    model_type: str,
    ops: Ops,
    layer: Any,
    h: torch.Tensor,
    batch: PackedBatch,
    rotary: Rotary | None,
    keep: torch.Tensor | None = None,
) -> torch.Tensor:
    """One decoder layer on packed h [T, E]; keep: the packed tokens to return (None: all)."""
    y, out_proj = PACKED[model_type](ops, layer, ops.norm(layer.input_layernorm, h), batch, rotary)
    if keep is not None:
        h, y = h[keep], y[keep]
    h, x = ops.add_norm(layer.post_attention_layernorm, h, ops.project(out_proj, y))
    return h.add_(ops.project(layer.mlp.down_proj, ops.swiglu(layer.mlp, x)))
