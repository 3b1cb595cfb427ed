"""Reading the parts of a checkpoint as modules, onto a device or into host memory."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import Checkpoint
from optlayers.config.graft import Graft
from optlayers.errors import ModelError
from optlayers.inference.converted import Wanted, hold, other_dtype
from optlayers.inference.flat import flat_size, flatten
from optlayers.inference.offload import GB, Layers, Placement, place
from optlayers.models.families import Family, attention_of, embedding_rows, family_of
from optlayers.models.parts import keep_modules

NO_NAMES: set[str] = set()


@dataclass
class Side:
    """One parent: its family, config, decoder layers and their kinds, and rotary embedding."""

    family: Family
    config: Any
    layers: Layers
    kinds: list[str]
    rotary: nn.Module | None


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
    return layer if half == "layer" else keep_modules(layer, family.halves.names(half))


def _buffers_to(layer: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Bring what a layer has beside its weights to their device and dtype."""
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
    """Where the layers of a base and its donors will lie, from their configs."""
    base = parents.base
    sizes = []
    for checkpoint, half in ((base, "layer"), *((donor, graft.swap) for donor in parents.donors)):
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
    return place(tuple(sizes), parents.n_layers, ends, free)


def _named(checkpoint: Checkpoint, prefix: str, parts: set[str]) -> list[str]:
    """The names below the prefix of the tensors of one module, or of those parts of it."""
    found = checkpoint.names_below(prefix)
    return [name for name in found if not parts or name.split(".")[0] in parts]


def _parts(family: Family, half: str) -> set[str]:
    return NO_NAMES if half == "layer" else family.halves.names(half)


def _tensors(checkpoint: Checkpoint, prefix: str, parts: set[str]) -> dict[str, Tensor]:
    """Those of one module, or of the parts of it that are named."""
    return {n: checkpoint.tensor(f"{prefix}.{n}") for n in _named(checkpoint, prefix, parts)}


def needed_tensors(checkpoint: Checkpoint, places: Sequence[int], half: str) -> list[str]:
    """The names of the tensors of some layers of a checkpoint, or of a half of each."""
    family = family_of(checkpoint.config)
    prefixes = [f"{family.layers}.{index}" for index in sorted(set(places))]
    parts = _parts(family, half)
    return [f"{prefix}.{n}" for prefix in prefixes for n in _named(checkpoint, prefix, parts)]


def share(
    parents: Sequence[Checkpoint],
    needed: Sequence[Sequence[str]],
    dtype: torch.dtype,
    say: Callable[[str], None],
    held: ExitStack,
) -> list[Checkpoint]:
    """The parents such that a CPU maps what it needs of them: one copy for a machine's processes.

    needed: the names of the tensors of each. Tensors of another dtype are mapped from a converted
    file until `held` is closed; where there can be none, each process has a copy of its own, and
    `say` receives the reason. Raises `ModelError` for a source that is broken.
    """
    values = sum(
        math.prod(checkpoint.entry(name).shape)
        for checkpoint, names in zip(parents, needed, strict=True)
        for name in names
    )
    kind = str(dtype).removeprefix("torch.")
    size = f"{values * dtype.itemsize / GB:.2f} GB of weights in {kind}"
    others = [other_dtype(p, names, dtype) for p, names in zip(parents, needed, strict=True)]
    places = [place for place, names in enumerate(others) if names]
    wanted = [Wanted(parents[place], others[place], dtype) for place in places]
    where = f"converted in {wanted[0].path.parent} while in use" if wanted else "as they lie"
    say(f"{size}, {where}, mapped: one copy for all workers of this machine")
    found = list(parents)
    if not wanted:
        return found
    try:
        for place, converted in zip(places, hold(wanted, say, held), strict=True):
            found[place] = converted
    except OSError as error:
        held.close()
        say(
            f"{size}, a copy in each worker instead ({error}); set OPTLAYERS_MODELS to a folder on "
            "a larger disk, or run in the dtype of the files"
        )
        return list(parents)
    return found


def _read(
    checkpoint: Checkpoint,
    module: nn.Module,
    prefix: str,
    device: torch.device,
    dtype: torch.dtype,
    parts: set[str] = NO_NAMES,
) -> nn.Module:
    """A module of the checkpoint, onto the device."""
    converted = {
        name: tensor.to(device=device, dtype=dtype)
        for name, tensor in _tensors(checkpoint, prefix, parts).items()
    }
    return _fill(module, converted, f"{checkpoint.name} {prefix}")


def read_side(
    checkpoint: Checkpoint,
    places: Sequence[int],
    half: str,
    device: torch.device,
    dtype: torch.dtype,
    stays: Callable[[int], bool] | None,
) -> Side:
    """The layers of one parent, or a half of each, where `places` has their indices.

    stays: which of them stay on a GPU (None: it is a CPU, where mapped weights stay mapped).
    """
    config = checkpoint.config
    config._attn_implementation = attention_of(config, "sdpa")
    family, layers = family_of(config), Layers()
    parts = _parts(family, half)
    kinds = [family.kinds(config)[index] for index in places]
    for i, index in enumerate(places):
        layer = _buffers_to(_empty_layer(family, config, index, half), device, dtype)
        prefix = f"{family.layers}.{index}"
        if stays is None:
            layers.append(_read(checkpoint, layer, prefix, device, dtype, parts))
            continue
        _fill(layer, _tensors(checkpoint, prefix, parts), f"{checkpoint.name} {prefix}")
        if stays(i):
            flatten(layer, torch.empty(flat_size(layer), dtype=dtype, device=device))
            layers.append(layer)
        else:
            build = functools.partial(_empty_layer, family, config, index, half)
            layers.append_away(layer.to(dtype), build, device, kinds[i])
    rotary = family.build_rotary(config) if family.build_rotary else None
    return Side(family, config, layers, kinds, None if rotary is None else rotary.to(device))


def read_ends(
    base: Checkpoint, device: torch.device, dtype: torch.dtype
) -> tuple[nn.Module, nn.Module, nn.Linear]:
    """Embedding, final norm and head of the base; raises `ModelError` where one is missing."""
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
    elif config.tie_word_embeddings:
        _fill(head, {"weight": embedding.weight}, base.name)
    else:
        raise ModelError(
            f"{base.name}: {family.head}.weight is missing, and config.json does not tie it "
            "to the embedding"
        )
    return embedding, norm, head
