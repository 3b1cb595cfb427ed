"""LayerStack: the layers of base and donors on one device, run one at a time.

No hybrid is built as a model: evaluating a layer set means choosing, layer by layer, which parent's
layer to run. An origin is 0 for the base, 1 for the first donor and so on. Shapes: B batch,
T tokens, E hidden size, K positions, V vocabulary.
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
from optlayers.inference.converted import map_weights
from optlayers.inference.loading import Side, needed_tensors, placement_of, read_ends, read_side
from optlayers.inference.narrow import WIDEST, NarrowOps, can_run_narrow
from optlayers.inference.offload import SLOTS
from optlayers.inference.packed import PACKED, Ops, PackedBatch, run_layer
from optlayers.models.parts import LayerInputs

BASE = 0

# The inputs of the layers of one parent, by kind of layer.
Inputs = dict[str, LayerInputs]


def fused_ops(sides: Sequence[Side], device: torch.device) -> Ops | None:
    """The fused kernels, if device, Triton and the layers allow them."""
    if device.type != "cuda":
        return None
    try:
        from optlayers.inference.fused import FusedOps, can_fuse
    except ImportError:
        return None
    return FusedOps() if all(can_fuse(side.layers[0]) for side in sides) else None


class LayerStack:
    """Embedding, layers of all parents, final norm and head on one device.

    Embedding, norm and head are the base's. `run` runs the code of an exported checkpoint, and
    agrees with it to the last bit on equal batches. narrow: the layers are on a CPU and too small
    for several threads. fused, narrow_ops: `run_packed` uses `FusedOps`, or `NarrowOps`.
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
        known = self.packable and all(can_run_narrow(side.layers[0]) for side in self.sides)
        self.narrow_ops = self.narrow and known
        self._ops: Ops = fused or (NarrowOps() if self.narrow_ops else Ops())
        self.coarse_ops: Ops | None = None
        self._expected: list[tuple[int, int]] = []
        self._at = 0
        self._rotary_lock = threading.Lock()  # some rotary embeddings change with the length

    @property
    def packable(self) -> bool:
        """Whether whole layers are swapped and all families have a packed form."""
        known = all(side.config.model_type in PACKED for side in self.sides)
        return known and self.graft.swap == "layer"

    @property
    def rotary_limits(self) -> list[int]:
        """Lengths at which rotary embeddings change their frequencies (longrope), ascending."""
        limits: set[int] = set()
        for side in self.sides:
            values = getattr(side.config, "rope_parameters", None) or {}
            kinds = [values, *(value for value in values.values() if isinstance(value, dict))]
            limits |= {
                int(kind["original_max_position_embeddings"])
                for kind in kinds
                if kind.get("rope_type") == "longrope"
            }
        return sorted(limits)

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
        """Read the checkpoints layer by layer; raises `ModelError` if they do not fit.

        memory: bytes of the GPU to use (None: all that are free); layers that do not fit are
        offloaded to host memory. On a CPU weights are mapped from files in `dtype`, so that
        processes share them. say: gets a line on the choice.
        """
        parents.check(graft)
        n_layers = parents.n_layers
        places = [list(range(n_layers))]
        for donor in range(len(parents.donors)):
            places.append([graft.source(i, donor) for i in range(n_layers)])
        parts = ["layer", *[graft.swap] * len(parents.donors)]
        with contextlib.ExitStack() as held:
            placement, sources = None, list(parents.all)
            if device.type == "cuda":
                placement = placement_of(parents, device, dtype, memory, graft)
                say(str(placement))
            else:
                needed = list(map(needed_tensors, sources, places, parts))
                needed[BASE] = parents.base.names()
                sources = map_weights(sources, needed, dtype, say, held)
            sides = []
            for origin, source in enumerate(sources):
                stays = None if placement is None else functools.partial(placement.stays, origin)
                side = read_side(source, places[origin], parts[origin], device, dtype, stays)
                sides.append(side)
            stack = cls(sides, *read_ends(sources[BASE], device, dtype), graft)
            weakref.finalize(stack, held.pop_all().close)
        return stack

    def place(self, side: int, layer: int) -> int:
        """The index of a layer in the parent that it comes from."""
        return layer if side == BASE else self.graft.source(layer, side - 1)

    def expect(self, passes: list[tuple[int, int]]) -> None:
        """Announce the coming layer passes (layer, origin), which repeat, to prefetch layers."""
        self._expected, self._at = passes, 0
        self._prefetch()

    def _prefetch(self) -> None:
        """Start copying the offloaded layers that the next passes need."""
        for side, parent in enumerate(self.sides):
            if not parent.layers.offloaded:
                continue
            wanted: list[int] = []
            for step in range(len(self._expected)):
                at = (self._at + step) % len(self._expected)
                layer, origin = self._expected[at]
                if self._needs(origin, side) and parent.layers.is_offloaded(layer):
                    wanted.append(layer)
                if len(set(wanted)) == SLOTS:
                    break
            parent.layers.prefetch(wanted)

    def _needs(self, origin: int, side: int) -> bool:
        """Whether a pass needs a side's layer; swapped halves also need the base's other half."""
        return origin == side or (side == BASE and self.graft.swap != "layer")

    def _passed(self, origin: int, layer: int) -> None:
        """Release the layers of a pass that has been queued."""
        for number, side in enumerate(self.sides):
            if self._needs(origin, number):
                side.layers.release(layer)
        self._at += 1
        self._prefetch()

    def begin(self, tokens: torch.Tensor) -> tuple[torch.Tensor, tuple[Inputs, ...]]:
        """Embed tokens [B, T]: hidden states [B, T, E], and the inputs of each side's layers."""
        h: torch.Tensor = self.embedding(tokens)
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        with self._rotary_lock:
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
        """Embed packed tokens [T]: hidden states [T, E]; sets the batch's rotary embeddings."""
        h: torch.Tensor = self.embedding(batch.tokens)
        positions = batch.positions[None]
        with self._rotary_lock:
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
        """Run one layer of one side on packed hidden states [T, E]; reference: `run`.

        The last layer returns the tokens of `batch.keep` only. coarse: multiply in eight bits,
        after `add_eight_bit`.
        """
        side = self.sides[origin]
        keep = batch.keep if layer == self.n_layers - 1 else None
        ops = self.coarse_ops if coarse and self.coarse_ops is not None else self._ops
        model_type, rotary = side.config.model_type, batch.rotary[origin]
        out = run_layer(model_type, ops, side.layers[layer], h, batch, rotary, keep)
        self._passed(origin, layer)
        return out

    def add_eight_bit(self) -> None:
        """Add eight-bit copies of all projections, for coarse runs; raises `ModelError`."""
        if not self.fused or any(side.layers.offloaded for side in self.sides):
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
        """Logits [K, V] of hidden states [K, E], before the final norm.

        rows [R]: the tokens of the vocabulary to compute; then the logits are [K, R].
        """
        normed, base = self.norm(h), self.sides[BASE]
        if rows is None:
            return base.family.finish(base.config, self.head(normed))
        bias = self.head.bias[rows] if self.head.bias is not None else None
        return base.family.finish(base.config, F.linear(normed, self.head.weight[rows], bias))
