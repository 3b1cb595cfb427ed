"""Loading layers, embedding, norm and head of checkpoints onto a device or into host memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import Checkpoint
from optlayers.checkpoints.tensorfile import check_overflow
from optlayers.config.graft import Graft
from optlayers.inference.flat import flat_size, flatten
from optlayers.inference.offload import Layers, Placement, place
from optlayers.models.families import Family, attention_of, embedding_rows, family_of
from optlayers.models.parts import keep_modules


@dataclass
class Side:
    """One parent: family, config, decoder layers and their kinds, rotary embedding."""

    family: Family
    config: Any
    layers: Layers
    kinds: list[str]
    rotary: nn.Module | None


def _fill(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """Assign tensors to a module on the meta device; a `Checkpoint` has checked that they fit."""
    module.load_state_dict(dict(tensors), assign=True)
    return module.eval().requires_grad_(False)


def _empty_layer(family: Family, config: Any, index: int, part: str) -> nn.Module:
    """A part of a decoder layer on the meta device."""
    with torch.device("meta"):
        layer: nn.Module = family.build_layer(config, index)
    return keep_modules(layer, family.halves.modules(part))


def _buffers_to(layer: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Move the buffers of a layer to the device and dtype of its weights."""
    for module in layer.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device=device, dtype=dtype))
    return layer


def placement_of(
    parents: Parents,
    device: torch.device,
    dtype: torch.dtype,
    memory: int | None,
    graft: Graft,
) -> Placement:
    """Which layers of base and donors stay on the device, from their configs.

    memory: bytes of the device to use (None: all that are free).
    """
    base = parents.base
    sizes = []
    for checkpoint in parents.all:
        part = "layer" if checkpoint is base else graft.swap
        family = family_of(checkpoint.config)
        kinds = family.kinds(checkpoint.config)
        # Layers of several kinds count as the largest.
        first = [kinds.index(kind) for kind in sorted(set(kinds))]
        empty = [_empty_layer(family, checkpoint.config, i, part) for i in first]
        sizes.append(max(map(flat_size, empty)) * dtype.itemsize)
    tied = not base.has(f"{family_of(base.config).head}.weight")
    rows = embedding_rows(base.config) * (1 if tied else 2)
    ends = rows * int(base.config.hidden_size) * dtype.itemsize
    free = torch.cuda.mem_get_info(device)[0] if memory is None else memory
    return place(tuple(sizes), parents.n_layers, ends, free)


def needed_tensors(checkpoint: Checkpoint, places: Sequence[int], part: str) -> list[str]:
    """The names of the tensors of a part of some layers."""
    family = family_of(checkpoint.config)
    prefixes = [f"{family.layers}.{index}" for index in sorted(set(places))]
    modules = family.halves.modules(part)
    return [f"{p}.{name}" for p in prefixes for name in checkpoint.names_below(p, modules)]


def _read(
    checkpoint: Checkpoint,
    module: nn.Module,
    prefix: str,
    device: torch.device | None,
    dtype: torch.dtype | None,
    modules: set[str] | None = None,
) -> nn.Module:
    """Give a module its weights, moved to a device and dtype (None: mapped from the file)."""
    weights = {
        name: checkpoint.tensor(f"{prefix}.{name}", dtype).to(device)
        for name in checkpoint.names_below(prefix, modules)
    }
    return _fill(module, weights)


def read_side(
    checkpoint: Checkpoint,
    places: Sequence[int],
    part: str,
    device: torch.device,
    dtype: torch.dtype,
    stays: Callable[[int], bool] | None,
) -> Side:
    """A part (`layer`, `mixer` or `mlp`) of the layers of one parent.

    places: the index in the parent of each layer of the hybrid. stays: whether a layer stays on the
    GPU (None: on a CPU, where mapped weights stay mapped).
    """
    config = checkpoint.config
    config._attn_implementation = attention_of(config, "sdpa")
    family, layers = family_of(config), Layers()
    modules = family.halves.modules(part)
    kinds = [family.kinds(config)[index] for index in places]
    for i, index in enumerate(places):
        layer = _buffers_to(_empty_layer(family, config, index, part), device, dtype)
        prefix = f"{family.layers}.{index}"
        if stays is None:
            layers.append(_read(checkpoint, layer, prefix, device, dtype, modules))
            continue
        _read(checkpoint, layer, prefix, None, None, modules)
        wide = [parameter.dtype for parameter in layer.parameters()]
        if stays(i):
            flatten(layer, torch.empty(flat_size(layer), dtype=dtype, device=device))
        else:
            layer.to(dtype)
        for (name, parameter), source in zip(layer.named_parameters(), wide, strict=True):
            check_overflow(f"{prefix}.{name}", parameter, source)
        if stays(i):
            layers.append(layer)
        else:
            build = functools.partial(_empty_layer, family, config, index, part)
            layers.append_offloaded(layer, build, device, kinds[i])
    rotary = family.build_rotary(config) if family.build_rotary else None
    return Side(family, config, layers, kinds, None if rotary is None else rotary.to(device))


def read_ends(
    base: Checkpoint, device: torch.device, dtype: torch.dtype
) -> tuple[nn.Module, nn.Module, nn.Linear]:
    """Embedding, final norm and head of the base; a missing head is tied to the embedding."""
    config, family = base.config, family_of(base.config)
    rows, width = embedding_rows(config), config.hidden_size
    with torch.device("meta"):
        embedding = family.build_embedding(config)
        norm = family.build_norm(config)
        head = nn.Linear(width, rows, bias=base.has(f"{family.head}.bias"))
    _read(base, embedding, family.embedding, device, dtype)
    _read(base, norm, family.norm, device, dtype)
    if base.has(f"{family.head}.weight"):
        _read(base, head, family.head, device, dtype)
    else:
        _fill(head, {"weight": embedding.weight})
    return embedding, norm, head
