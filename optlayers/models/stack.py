"""LayerStack: the layers of both parents side by side, ready to be run one at a time.

A candidate is never built as a model: to evaluate a layer set is to choose, layer by layer,
which of the two to run. Shapes: B batch, T tokens, E hidden size, K picked positions,
V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optlayers.checkpoints.reader import Checkpoint
from optlayers.errors import ModelError
from optlayers.graft import WHOLE, Graft
from optlayers.models.families import Family, attention_of, embedding_rows, family_of
from optlayers.models.flat import flat_size, flatten
from optlayers.models.packed import PACKED, Ops, PackedBatch, PlainOps
from optlayers.models.parts import LayerInputs, strip
from optlayers.models.residency import SLOTS, Layers, Placement, place

BASE, DONOR = 0, 1
NO_NAMES: set[str] = set()

# What the layers of one parent need, by their kind.
Inputs = dict[str, LayerInputs]


@dataclass
class Side:
    """One parent: its family, config, decoder layers and their kinds, and rotary embedding."""

    family: Family
    config: Any
    layers: Layers
    kinds: list[str]
    rotary: nn.Module | None


def check_pair(base: Checkpoint, donor: Checkpoint, graft: Graft = WHOLE) -> int:
    """Raise `ModelError` unless the two have one width and depth; the number of layers.

    With a map of layers the donor may be of another depth; `InputError` where the map does not fit.
    """
    graft.check(base.n_layers, donor.n_layers)
    for field, attribute in (("layers", "num_hidden_layers"), ("hidden size", "hidden_size")):
        if attribute == "num_hidden_layers" and graft.donor_map is not None:
            continue
        mine, theirs = getattr(base.config, attribute), getattr(donor.config, attribute)
        if mine != theirs:
            raise ModelError(
                f"base {base.name} has {mine} {field} and donor {donor.name} has {theirs}; "
                "choose two models of one depth and width"
                + (", or give a donor_map" if field == "layers" else "")
            )
    return int(base.config.num_hidden_layers)


def differing_ends(base: Checkpoint, donor: Checkpoint) -> str | None:
    """In a line, how base and donor differ before and after their layers; None: they do not."""
    found = []
    mine, theirs = base.config.vocab_size, donor.config.vocab_size
    if mine != theirs:
        found.append(f"vocabularies of {mine} and {theirs} tokens")
    with torch.device("meta"):
        norms = [family_of(c.config).build_norm(c.config) for c in (base, donor)]
        tables = [family_of(c.config).build_embedding(c.config) for c in (base, donor)]
    if str(norms[0]).partition("(")[2] != str(norms[1]).partition("(")[2] or _offset(
        norms[0]
    ) != _offset(norms[1]):
        found.append(f"norms {norms[0]} and {norms[1]}")
    if getattr(tables[0], "scale", 1.0) != getattr(tables[1], "scale", 1.0):
        found.append("embeddings of different scale")
    if not found:
        return None
    return f"base and donor differ at the ends ({'; '.join(found)}): the base's rule"


def _offset(norm: nn.Module) -> bool:
    """Whether a norm multiplies by its weight plus one."""
    return "Gemma" in type(norm).__name__


def _fill(module: nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> nn.Module:
    """Give a module made on the meta device its tensors; raises `ModelError` on a misfit."""
    expected = {name: tuple(p.shape) for name, p in module.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise ModelError(
                f"{source}: tensor {name} is missing from the weights; fetch them again"
            )
        if name not in expected:
            raise ModelError(
                f"{source}: tensor {name} in the weights is unknown to this model; "
                "config.json and weights are not of one model, so fetch both again"
            )
        if expected[name] != found[name]:
            raise ModelError(
                f"{source}: tensor {name} has shape {found[name]}; config.json asks for "
                f"{expected[name]}; they are not of one model, so fetch both again"
            )
    module.load_state_dict(dict(tensors), assign=True)
    return module.eval().requires_grad_(False)


def _empty_layer(family: Family, config: Any, index: int, half: str = "layer") -> nn.Module:
    """A decoder layer without weights, or a half of one."""
    with torch.device("meta"):
        layer: nn.Module = family.build_layer(config, index)
    return layer if half == "layer" else strip(layer, family.halves.names(half))


def _buffers_to(layer: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Bring what a layer has beside its weights to their device and dtype."""
    for module in layer.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device=device, dtype=dtype))
    return layer


def _placement(
    base: Checkpoint,
    donor: Checkpoint,
    n_layers: int,
    device: torch.device,
    dtype: torch.dtype,
    memory: int | None,
    graft: Graft,
) -> Placement:
    """Where the layers of a pair will lie, from their configs."""
    sizes = []
    for checkpoint, half in ((base, "layer"), (donor, graft.swap)):
        family = family_of(checkpoint.config)
        kinds = family.kinds(checkpoint.config)
        # The largest counts where a model has layers of several kinds.
        first = [kinds.index(kind) for kind in sorted(set(kinds))]
        empty = [_empty_layer(family, checkpoint.config, i, half) for i in first]
        sizes.append(max(map(flat_size, empty)) * dtype.itemsize)
    tied = bool(base.config.tie_word_embeddings)
    rows = embedding_rows(base.config) * (1 if tied else 2)
    ends = rows * int(base.config.hidden_size) * dtype.itemsize
    free = torch.cuda.mem_get_info(device)[0] if memory is None else memory
    return place((sizes[0], sizes[1]), n_layers, ends, free)


def fused_ops(sides: tuple[Side, Side], device: torch.device) -> Ops | None:
    """The fused parts of packed layers, where device, Triton and the layers allow them."""
    if device.type != "cuda":
        return None
    try:
        from optlayers.models.fused import FusedOps, can_fuse
    except ImportError:
        return None
    return FusedOps() if all(can_fuse(side.layers[0]) for side in sides) else None


class LayerStack:
    """Embedding, both parents' layers, final norm and head on one device.

    The ends (embedding, norm, head) are the base's. Every layer is called with the code that
    the exported checkpoint runs, so results agree to the last bit on equal batches.
    """

    def __init__(
        self,
        base: Side,
        donor: Side,
        embedding: nn.Module,
        norm: nn.Module,
        head: nn.Linear,
        graft: Graft = WHOLE,
    ) -> None:
        self.sides = (base, donor)
        self.graft = graft
        self.embedding, self.norm, self.head = embedding, norm, head
        self.n_layers = len(base.layers)
        device = next(embedding.parameters()).device
        fused = fused_ops(self.sides, device) if self.packable else None
        self.fused = fused is not None
        self._ops: Ops = fused or PlainOps()
        self.coarse_ops: Ops | None = None
        self._expected: list[tuple[int, bool]] = []
        self._at = 0

    @property
    def packable(self) -> bool:
        """Whether both families have a packed form."""
        known = all(side.config.model_type in PACKED for side in self.sides)
        return known and self.graft.swap == "layer"

    @classmethod
    def load(
        cls,
        base: Checkpoint,
        donor: Checkpoint,
        device: torch.device,
        dtype: torch.dtype,
        memory: int | None = None,
        say: Callable[[str], None] = lambda text: None,
        graft: Graft = WHOLE,
    ) -> LayerStack:
        """Read both checkpoints layer by layer; raises `ModelError` where they do not fit.

        memory: bytes of the device to use, all that are free by default. Layers that do not fit
        wait in host memory; `say` receives what was chosen. On the CPU the weights stay mapped
        where the files hold `dtype`, so processes on one machine share them.
        """
        n_layers = check_pair(base, donor, graft)

        def tensors(checkpoint: Checkpoint, prefix: str, names: set[str]) -> dict[str, Tensor]:
            """Those of one module, or of the parts of it that are named."""
            found = checkpoint.tensors_named_below(prefix)
            return {
                name: checkpoint.tensor(f"{prefix}.{name}")
                for name in found
                if not names or name.split(".")[0] in names
            }

        def read(
            checkpoint: Checkpoint, module: nn.Module, prefix: str, names: set[str] = NO_NAMES
        ) -> nn.Module:
            converted = {
                name: tensor.to(device=device, dtype=dtype)
                for name, tensor in tensors(checkpoint, prefix, names).items()
            }
            return _fill(module, converted, f"{checkpoint.name} {prefix}")

        placement = None
        if device.type == "cuda":
            placement = _placement(base, donor, n_layers, device, dtype, memory, graft)
            say(str(placement))
        sides = []
        for number, checkpoint in enumerate((base, donor)):
            config = checkpoint.config
            config._attn_implementation = attention_of(config, "sdpa")
            family = family_of(config)
            layers, half = Layers(), graft.swap if number == DONOR else "layer"
            names = family.halves.names(half) if half != "layer" else NO_NAMES
            places = [graft.source(i) if number == DONOR else i for i in range(n_layers)]
            kinds = [family.kinds(config)[index] for index in places]
            for i, index in enumerate(places):
                layer = _buffers_to(_empty_layer(family, config, index, half), device, dtype)
                prefix = f"{family.layers}.{index}"
                if placement is None:
                    layers.append(read(checkpoint, layer, prefix, names))
                    continue
                found = tensors(checkpoint, prefix, names)
                _fill(layer, found, f"{checkpoint.name} {prefix}")
                if placement.stays(number, i):
                    flatten(layer, torch.empty(flat_size(layer), dtype=dtype, device=device))
                    layers.append(layer)
                else:
                    build = functools.partial(_empty_layer, family, config, index, half)
                    layers.append_away(layer.to(dtype), build, device, kinds[i])
            rotary = family.build_rotary(config) if family.build_rotary else None
            rotary = None if rotary is None else rotary.to(device)
            sides.append(Side(family, config, layers, kinds, rotary))
        config, family = base.config, sides[BASE].family
        rows, width = embedding_rows(config), config.hidden_size
        with torch.device("meta"):
            embedding = family.build_embedding(config)
            norm = family.build_norm(config)
            head = nn.Linear(width, rows, bias=base.has(f"{family.head}.bias"))
        read(base, embedding, family.embedding)
        read(base, norm, family.norm)
        if base.has(f"{family.head}.weight"):
            read(base, head, family.head)
        elif config.tie_word_embeddings:
            _fill(head, {"weight": embedding.weight}, base.name)
        else:
            raise ModelError(
                f"{base.name}: {family.head}.weight is missing, and config.json does not tie it "
                "to the embedding"
            )
        return cls(sides[BASE], sides[DONOR], embedding, norm, head, graft)

    def expect(self, passes: list[tuple[int, bool]]) -> None:
        """Say which layer passes follow, over and over: (layer, whether the donor's)."""
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
                layer, from_donor = self._expected[at]
                if self._needs(from_donor, side) and parent.layers.is_away(layer):
                    wanted.append(layer)
                if len(set(wanted)) == SLOTS:
                    break
            parent.layers.prepare(wanted)

    def _needs(self, from_donor: bool, side: int) -> bool:
        """Whether a pass of base or donor needs a layer of a side: a half is run with the rest."""
        return from_donor == bool(side) or (from_donor and self.graft.swap != "layer")

    def _passed(self, from_donor: bool, layer: int) -> None:
        """Note that a pass has been queued."""
        for number, side in enumerate(self.sides):
            if self._needs(from_donor, number):
                side.layers.release(layer)
        self._at += 1
        self._look_ahead()

    def begin(self, tokens: torch.Tensor) -> tuple[torch.Tensor, tuple[Inputs, ...]]:
        """Embed tokens [B, T]: hidden states [B, T, E], and what the layers of each side need."""
        h: torch.Tensor = self.embedding(tokens)
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
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
        from_donor: bool,
        h: torch.Tensor,
        inputs: tuple[Inputs, ...],
    ) -> torch.Tensor:
        """Run one layer of one side on hidden states [B, T, E]."""
        side, swap = self.sides[from_donor], self.graft.swap
        if not from_donor or swap == "layer":
            out = side.family.call(side.layers[layer], h, inputs[from_donor][side.kinds[layer]])
        else:
            mixer, mlp = (DONOR, BASE) if swap == "mixer" else (BASE, DONOR)
            first, second = self.sides[mixer], self.sides[mlp]
            out = first.family.halves.mix(first.layers[layer], h, inputs[mixer][first.kinds[layer]])
            out = second.family.halves.feed(second.layers[layer], out)
        self._passed(from_donor, layer)
        return out

    def begin_packed(self, batch: PackedBatch) -> torch.Tensor:
        """Embed packed tokens [T]: hidden states [T, E]; notes the rotations in the batch."""
        h: torch.Tensor = self.embedding(batch.tokens)
        positions = batch.positions[None]
        batch.rotary = [
            side.rotary(h[None], position_ids=positions) if side.rotary is not None else None
            for side in self.sides
        ]
        return h

    def run_packed(
        self,
        layer: int,
        from_donor: bool,
        h: torch.Tensor,
        batch: PackedBatch,
        coarse: bool = False,
    ) -> torch.Tensor:
        """Run one layer of one side on packed hidden states [T, E]; twin: `run`.

        The last layer gives the hidden states of `batch.keep` alone, where that is set. coarse:
        multiply in eight bits; `add_eight_bit` comes first.
        """
        side = self.sides[from_donor]
        call = PACKED[side.config.model_type]
        keep = batch.keep if layer == self.n_layers - 1 else None
        ops = self.coarse_ops if coarse and self.coarse_ops is not None else self._ops
        out = call(ops, side.layers[layer], h, batch, batch.rotary[from_donor], keep)
        self._passed(from_donor, layer)
        return out

    def add_eight_bit(self) -> None:
        """Keep a copy of all projections in eight bits, for coarse runs; raises `ModelError`."""
        if not self.fused or any(side.layers.streamed for side in self.sides):
            raise ModelError(
                "fp8 needs fused layers that all stay on one NVIDIA GPU; use a larger one, or "
                "leave questions.fast_precision out"
            )
        from optlayers.models.eight_bit import add_eight_bit
        from optlayers.models.eight_bit_kernels import EightBitOps

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
