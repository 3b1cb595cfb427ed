"""LayerStack: the layers of base and donors side by side, ready to be run one at a time.

A candidate is never built as a model: to evaluate a layer set is to choose, layer by layer,
which of them to run. An origin is 0 for the base, and one more than its place for a donor.
Shapes: B batch, T tokens, E hidden size, K picked positions, V vocabulary.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from optlayers.checkpoints.parents import Parents
from optlayers.config.graft import WHOLE, Graft
from optlayers.errors import ModelError
from optlayers.inference.even import WIDEST, EvenOps, can_run_even
from optlayers.inference.loading import (
    Side,
    needed_tensors,
    placement_of,
    read_ends,
    read_side,
    share,
)
from optlayers.inference.offload import SLOTS
from optlayers.inference.packed import PACKED, Ops, PackedBatch, PlainOps
from optlayers.models.parts import LayerInputs

BASE = 0

# What the layers of one parent need, by their kind.
Inputs = dict[str, LayerInputs]


def fused_ops(sides: Sequence[Side], device: torch.device) -> Ops | None:
    """The fused parts of packed layers, where device, Triton and the layers allow them."""
    if device.type != "cuda":
        return None
    try:
        from optlayers.inference.fused import FusedOps, can_fuse
    except ImportError:
        return None
    return FusedOps() if all(can_fuse(side.layers[0]) for side in sides) else None


class LayerStack:
    """Embedding, the parents' layers, final norm and head on one device.

    The ends (embedding, norm, head) are the base's. `run` calls a layer with the code that the
    exported checkpoint runs, so results agree to the last bit on equal batches. narrow: layers on
    a CPU that are too small for several threads. fused, even: `run_packed` has `FusedOps`, or
    `EvenOps` for rows of one length.
    """

    def __init__(
        self,
        sides: Sequence[Side],
        embedding: nn.Module,
        norm: nn.Module,
        head: nn.Linear,
        graft: Graft = WHOLE,
    ) -> None:
        self.sides = tuple(sides)
        self.graft = graft
        self.embedding, self.norm, self.head = embedding, norm, head
        self.n_layers = len(self.sides[BASE].layers)
        self.space = graft.space(self.n_layers)
        device = next(embedding.parameters()).device
        fused = fused_ops(self.sides, device) if self.packable else None
        self.fused = fused is not None
        widest = max(int(side.config.hidden_size) for side in self.sides)
        self.narrow = device.type == "cpu" and widest <= WIDEST
        known = self.packable and all(can_run_even(side.layers[0]) for side in self.sides)
        self.even = self.narrow and known
        self._ops: Ops = fused or (EvenOps() if self.even else PlainOps())
        self.coarse_ops: Ops | None = None
        self._expected: list[tuple[int, int]] = []
        self._at = 0
        self._turning = threading.Lock()  # some rotary embeddings change with the length

    @property
    def packable(self) -> bool:
        """Whether all families have a packed form."""
        known = all(side.config.model_type in PACKED for side in self.sides)
        return known and self.graft.swap == "layer"

    @classmethod
    def load(
        cls,
        parents: Parents,
        device: torch.device,
        dtype: torch.dtype,
        memory: int | None = None,
        say: Callable[[str], None] = lambda text: None,
        graft: Graft = WHOLE,
    ) -> LayerStack:
        """Read the checkpoints layer by layer; raises `ModelError` where they do not fit.

        memory: bytes of the device to use, all that are free by default. Layers that do not fit
        wait in host memory; `say` receives what was chosen. On the CPU the weights are mapped from
        files of `dtype`, so processes on one machine share them.
        """
        parents.check(graft)
        n_layers = parents.n_layers
        taken = [(list(range(n_layers)), "layer")]
        for place in range(len(parents.donors)):
            taken.append(([graft.source(i, place) for i in range(n_layers)], graft.swap))
        with contextlib.ExitStack() as held:
            placement, sources = None, list(parents.all)
            if device.type == "cuda":
                placement = placement_of(parents, device, dtype, memory, graft)
                say(str(placement))
            else:
                needed = [needed_tensors(p, *what) for p, what in zip(sources, taken, strict=True)]
                needed[BASE] = parents.base.names()
                sources = share(sources, needed, dtype, say, held)
            sides = []
            for number, (checkpoint, (places, half)) in enumerate(zip(sources, taken, strict=True)):
                stays = None if placement is None else functools.partial(placement.stays, number)
                sides.append(read_side(checkpoint, places, half, device, dtype, stays))
            stack = cls(sides, *read_ends(sources[BASE], device, dtype), graft)
            weakref.finalize(stack, held.pop_all().close)
        return stack

    def place(self, side: int, layer: int) -> int:
        """The index that a layer has in the model of its side."""
        return layer if side == BASE else self.graft.source(layer, side - 1)

    def expect(self, passes: list[tuple[int, int]]) -> None:
        """Say which layer passes follow, over and over: (layer, its origin)."""
        self._expected, self._at = passes, 0
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Start to copy what the coming passes need of the layers in host memory."""
        for side, parent in enumerate(self.sides):
            if not parent.layers.streamed:
                continue
            wanted: list[int] = []
            for step in range(len(self._expected)):
                at = (self._at + step) % len(self._expected)
                layer, origin = self._expected[at]
                if self._needs(origin, side) and parent.layers.is_away(layer):
                    wanted.append(layer)
                if len(set(wanted)) == SLOTS:
                    break
            parent.layers.prepare(wanted)

    def _needs(self, origin: int, side: int) -> bool:
        """Whether a pass of an origin needs a layer of a side: a half is run with the rest."""
        return origin == side or (side == BASE and self.graft.swap != "layer")

    def _passed(self, origin: int, layer: int) -> None:
        """Note that a pass has been queued."""
        for number, side in enumerate(self.sides):
            if self._needs(origin, number):
                side.layers.release(layer)
        self._at += 1
        self._look_ahead()

    def begin(self, tokens: torch.Tensor) -> tuple[torch.Tensor, tuple[Inputs, ...]]:
        """Embed tokens [B, T]: hidden states [B, T, E], and what the layers of each side need."""
        h: torch.Tensor = self.embedding(tokens)
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        with self._turning:
            return h, tuple(
                {
                    kind: side.family.inputs(side.config, side.rotary, kind, h, positions)
                    for kind in sorted(set(side.kinds))
                }
                for side in self.sides
            )

    def run(
        self,
        layer: int,
        origin: int,
        h: torch.Tensor,
        inputs: tuple[Inputs, ...],
    ) -> torch.Tensor:
        """Run one layer of one side on hidden states [B, T, E]."""
        side, swap = self.sides[origin], self.graft.swap
        if origin == BASE or swap == "layer":
            out = side.family.call(side.layers[layer], h, inputs[origin][side.kinds[layer]])
        else:
            mixer, mlp = (origin, BASE) if swap == "mixer" else (BASE, origin)
            first, second = self.sides[mixer], self.sides[mlp]
            out = first.family.halves.run_mixer(
                first.layers[layer], h, inputs[mixer][first.kinds[layer]]
            )
            out = second.family.halves.run_mlp(second.layers[layer], out)
        self._passed(origin, layer)
        return out

    def begin_packed(self, batch: PackedBatch) -> torch.Tensor:
        """Embed packed tokens [T]: hidden states [T, E]; notes the rotations in the batch."""
        h: torch.Tensor = self.embedding(batch.tokens)
        positions = batch.positions[None]
        with self._turning:
            batch.rotary = [
                side.rotary(h[None], position_ids=positions) if side.rotary is not None else None
                for side in self.sides
            ]
        return h

    def run_packed(
        self,
        layer: int,
        origin: int,
        h: torch.Tensor,
        batch: PackedBatch,
        coarse: bool = False,
    ) -> torch.Tensor:
        """Run one layer of one side on packed hidden states [T, E]; twin: `run`.

        The last layer gives the hidden states of `batch.keep` alone, where that is set. coarse:
        multiply in eight bits; `add_eight_bit` comes first.
        """
        side = self.sides[origin]
        call = PACKED[side.config.model_type]
        keep = batch.keep if layer == self.n_layers - 1 else None
        ops = self.coarse_ops if coarse and self.coarse_ops is not None else self._ops
        out = call(ops, side.layers[layer], h, batch, batch.rotary[origin], keep)
        self._passed(origin, layer)
        return out

    def add_eight_bit(self) -> None:
        """Keep a copy of all projections in eight bits, for coarse runs; raises `ModelError`."""
        if not self.fused or any(side.layers.streamed for side in self.sides):
            raise ModelError(
                "fp8 needs fused layers that all stay on one NVIDIA GPU; use a larger one, or "
                "leave questions.fast_precision out"
            )
        from optlayers.inference.fp8 import add_eight_bit
        from optlayers.inference.fp8_kernels import EightBitOps

        ops = EightBitOps()
        try:
            for side in self.sides:
                for i in range(self.n_layers):
                    add_eight_bit(side.layers[i])
        except torch.cuda.OutOfMemoryError:
            raise ModelError(
                "fp8 needs half as much device memory again as the weights take; use a larger "
                "GPU, or leave questions.fast_precision out"
            ) from None
        self.coarse_ops = ops

    def logits(self, h: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [K, V] of picked hidden states [K, E], before the final norm.

        rows [R]: the vocabulary rows that are needed; then the logits are [K, R].
        """
        normed, base = self.norm(h), self.sides[BASE]
        if rows is None:
            return base.family.finish(base.config, self.head(normed))
        bias = self.head.bias[rows] if self.head.bias is not None else None
        return base.family.finish(base.config, F.linear(normed, self.head.weight[rows], bias))
