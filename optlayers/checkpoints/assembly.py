"""What a hybrid is made of: its config, its tensors by their sources, the model in memory."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from optlayers.checkpoints.expected import ExpectedTensors
from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import Checkpoint
from optlayers.checkpoints.tensorfile import FLOATS, TensorEntry
from optlayers.config.graft import WHOLE, Graft
from optlayers.errors import ModelError
from optlayers.layerset import LayerSet
from optlayers.models.families import family_of
from optlayers.models.hybrid import HybridConfig, HybridForCausalLM


@dataclass(frozen=True)
class Piece:
    """One tensor of a hybrid: its name there, the checkpoint that it comes from, its name there."""

    name: str
    source: Checkpoint
    source_name: str

    @property
    def entry(self) -> TensorEntry:
        """The place of the tensor in the source; raises `ModelError` if missing."""
        return self.source.entry(self.source_name)


def plan_pieces(parents: Parents, layers: LayerSet, graft: Graft = WHOLE) -> list[Piece]:
    """Every tensor of a hybrid, in the order of the model; nothing is read."""
    base = parents.base
    chosen = graft.space().origins(layers)
    family = family_of(base.config)
    pieces: list[Piece] = []

    def add(source: Checkpoint, prefix: str, target: str, part: str = "layer") -> None:
        names = source.names_below(prefix, family_of(source.config).halves.modules(part))
        pieces.extend(Piece(f"{target}.{n}", source, f"{prefix}.{n}") for n in names)

    add(base, family.embedding, "model.embed_tokens")
    for i in range(base.n_layers):
        mine, target = f"{family.layers}.{i}", f"model.layers.{i}"
        if i not in chosen:
            add(base, mine, target)
            continue
        donor = parents.donors[chosen[i]]
        theirs = f"{family_of(donor.config).layers}.{graft.source(i, chosen[i])}"
        if graft.swap == "layer":
            add(donor, theirs, target)
        else:
            for half in ("mixer", "mlp"):
                source, prefix = (donor, theirs) if half == graft.swap else (base, mine)
                add(source, prefix, f"{target}.{half}", half)
    add(base, family.norm, "model.norm")
    add(base, family.head, "lm_head")
    return pieces


def check_complete(pieces: Sequence[Piece], config: HybridConfig, parents: Parents) -> None:
    """Raise `ModelError` where the pieces are not the tensors that the hybrid asks for."""
    entries = {piece.name: piece.entry for piece in pieces}
    if fault := ExpectedTensors.of(config).fault(entries, (), lambda tensor: True):
        sources = ", ".join(parent.name for parent in parents.all)
        raise ModelError(f"the hybrid of {sources}: {fault}")


def dtype_of(pieces: Sequence[Piece], dtype: str | None) -> torch.dtype:
    """The dtype to load a hybrid in: wide enough for most weights of each parent.

    A few small tensors in a wider dtype do not widen it. dtype: see `TensorEntry.converted`.
    """
    bytes_of: dict[str, Counter[str]] = {}
    for piece in pieces:
        kind, size = piece.entry.converted(dtype)
        if kind in FLOATS:
            bytes_of.setdefault(str(piece.source.folder), Counter())[kind] += size
    kinds = [FLOATS[count.most_common(1)[0][0]] for count in bytes_of.values()]
    return functools.reduce(torch.promote_types, kinds)


def hybrid_config(
    parents: Parents,
    layers: LayerSet,
    graft: Graft,
    dtype: torch.dtype,
    tokens: Mapping[str, Any] | None = None,
) -> HybridConfig:
    """The config of a hybrid; tokens: the ids of its special tokens."""
    configs = []
    for checkpoint in parents.all:
        data = {**checkpoint.config_dict, "model_type": checkpoint.config.model_type}
        for key in ("architectures", "auto_map", "_name_or_path", "transformers_version"):
            data.pop(key, None)
        configs.append(data)
    maps = [None if places is None else list(places) for places in graft.maps]
    chosen = graft.space().origins(layers)
    config = HybridConfig.of(
        configs,
        maps,
        donor_layers=list(chosen),
        swap=graft.swap,
        givers=list(chosen.values()) if len(maps) > 1 else None,
        architectures=[HybridForCausalLM.__name__],
        tie_word_embeddings=not parents.base.has(f"{family_of(parents.base.config).head}.weight"),
        **(tokens or {}),
    )
    config.dtype = dtype
    return config


def assemble(
    parents: Parents,
    layers: LayerSet,
    dtype: torch.dtype,
    graft: Graft = WHOLE,
    tokens: Mapping[str, Any] | None = None,
) -> HybridForCausalLM:
    """A hybrid on the CPU, in evaluation mode; nothing is written. tokens: see `hybrid_config`.

    Raises `ModelError` for a tensor that is missing or cannot be read.
    """
    weights = {
        piece.name: piece.source.tensor(piece.source_name, dtype)
        for piece in plan_pieces(parents, layers, graft)
    }
    model: HybridForCausalLM = HybridForCausalLM.from_pretrained(
        None,
        config=hybrid_config(parents, layers, graft, dtype, tokens),
        state_dict=weights,
        dtype=dtype,
    )
    model.eval()
    return model
