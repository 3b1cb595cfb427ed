"""Writing a hybrid as a Hugging Face folder, tensor by tensor from the source files.

The folder holds sharded safetensors, config, generation config, the tokenizer, a readable
modeling file with what it needs (so that it loads where optlayers is not installed) and
`checkpoint_info.json`. It appears by rename: a kill leaves nothing that looks finished.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from optlayers.checkpoints.reader import INDEX, SINGLE, Checkpoint
from optlayers.errors import ExportError, InputError
from optlayers.layerset import LayerSet
from optlayers.models import hybrid as hybrid_module
from optlayers.models.families import family_of
from optlayers.models.hybrid import HybridConfig, HybridForCausalLM

SHARD_BYTES = 2_000_000_000
SPARE_BYTES = 50_000_000
MODELING = ("ssd.py", "llamba.py", "families.py", "hybrid.py")
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "*.jinja", "vocab.json", "merges.txt")


@dataclass(frozen=True)
class Piece:
    """One tensor of the target, and where it comes from."""

    name: str
    source: Checkpoint
    source_name: str


def plan_pieces(base: Checkpoint, donor: Checkpoint, layers: LayerSet) -> list[Piece]:
    """Every tensor of the hybrid in the order of the model; nothing is read yet."""
    mine = family_of(base.config)
    pieces: list[Piece] = []

    def below(source: Checkpoint, prefix: str, target: str) -> None:
        names = sorted(source.tensors_named_below(prefix))
        pieces.extend(Piece(f"{target}.{n}", source, f"{prefix}.{n}") for n in names)

    below(base, mine.embedding, "model.embed_tokens")
    for i in range(base.n_layers):
        source = donor if i in layers else base
        below(source, f"{family_of(source.config).layers}.{i}", f"model.layers.{i}")
    below(base, mine.norm, "model.norm")
    below(base, mine.head, "lm_head")
    return pieces


def export_hybrid(
    base: Checkpoint,
    donor: Checkpoint,
    layers: LayerSet,
    out: Path,
    tokenizer: Path,
    info: dict[str, Any],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write the hybrid to the folder `out`, which must not exist; returns it.

    `progress(done, total)` counts bytes. Raises `InputError` for a target that exists, and
    `ExportError` for a disk that is full or not writable.
    """
    layers.check(base.n_layers)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: it exists already; choose another, or remove it")
    pieces = plan_pieces(base, donor, layers)
    sizes = [_size(piece) for piece in pieces]
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out.parent).free
        need = sum(sizes) + SPARE_BYTES
        if free < need:
            raise ExportError(
                f"--out {out}: {need / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free; "
                "free some space or choose another disk"
            )
        partial.mkdir()
        _write_weights(partial, pieces, sizes, progress)
        _write_config(partial, base, donor, layers)
        _copy_tokenizer(tokenizer, partial)
        folder = Path(hybrid_module.__file__).parent
        for file in MODELING:
            shutil.copyfile(folder / file, partial / file)
        _write_json(partial / "checkpoint_info.json", info)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except (OSError, SafetensorError) as error:
        raise ExportError(
            f"--out {out}: could not be written ({error}); nothing was left behind"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _size(piece: Piece) -> int:
    tensor = piece.source.tensor(piece.source_name)
    return tensor.numel() * tensor.element_size()


def _write_weights(
    folder: Path, pieces: list[Piece], sizes: list[int], progress: Callable[[int, int], None]
) -> None:
    shards: list[list[Piece]] = [[]]
    filled = 0
    for piece, size in zip(pieces, sizes, strict=True):
        if shards[-1] and filled + size > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(piece)
        filled += size
    total, done = sum(sizes), 0
    size_of = {piece.name: size for piece, size in zip(pieces, sizes, strict=True)}
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = SINGLE
        if len(shards) > 1:
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        # The tensors are memory-mapped: the pages of one shard pass through memory at a time.
        tensors = {p.name: p.source.tensor(p.source_name).contiguous() for p in shard}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)  # safetensors makes files that only their owner reads
        where.update(dict.fromkeys(tensors, file))
        done += sum(size_of[p.name] for p in shard)
        progress(done, total)
    if len(shards) > 1:
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def _write_config(folder: Path, base: Checkpoint, donor: Checkpoint, layers: LayerSet) -> None:
    parents = []
    for checkpoint in (base, donor):
        data = {**checkpoint.config_dict, "model_type": checkpoint.config.model_type}
        for key in ("architectures", "auto_map", "_name_or_path", "transformers_version"):
            data.pop(key, None)
        parents.append(data)
    kept = ("bos_token_id", "eos_token_id", "pad_token_id")
    tokens = {key: getattr(donor.config, key, None) for key in kept}
    config = HybridConfig(
        base_config=parents[0],
        donor_config=parents[1],
        donor_layers=list(layers.indices),
        architectures=[HybridForCausalLM.__name__],
        **{key: value for key, value in tokens.items() if value is not None},
    )
    config.dtype = base.config.dtype or torch.float32
    data = config.to_diff_dict()
    data["auto_map"] = {
        "AutoConfig": "hybrid.HybridConfig",
        "AutoModelForCausalLM": "hybrid.HybridForCausalLM",
    }
    _write_json(folder / "config.json", data)
    generation = donor.folder / "generation_config.json"
    if generation.is_file():
        shutil.copyfile(generation, folder / "generation_config.json")
    else:
        _write_json(folder / "generation_config.json", {k: v for k, v in tokens.items() if v})


def _copy_tokenizer(source: Path, folder: Path) -> None:
    found = {path for pattern in TOKENIZER for path in source.glob(pattern) if path.is_file()}
    if not found:
        raise ExportError(f"tokenizer {source}: holds no tokenizer files; nothing was left behind")
    for path in sorted(found):
        shutil.copyfile(path, folder / path.name)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
