"""Writing a hybrid as a Hugging Face folder, tensor by tensor from the source files.

The folder holds sharded safetensors, config, generation config, the tokenizer, a readable
modeling file with what it needs (so that it loads where optlayers is not installed) and the
documents that it is given. It appears by rename: a kill leaves nothing that looks finished.
"""

from __future__ import annotations

import functools
import glob
import json
import os
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from optlayers.checkpoints.hashes import files_below, hash_files
from optlayers.checkpoints.reader import INDEX, SINGLE, Checkpoint
from optlayers.checkpoints.tensorfile import FLOATS, Entry, write_tensors
from optlayers.checkpoints.tokenizer import copy_tokenizer
from optlayers.errors import ExportError, InputError, ModelError
from optlayers.graft import WHOLE, Graft
from optlayers.layerset import LayerSet
from optlayers.models import hybrid as hybrid_module
from optlayers.models.families import family_of
from optlayers.models.hybrid import HybridConfig, HybridForCausalLM

SHARD_BYTES = 2_000_000_000
SPARE_BYTES = 50_000_000
MODELING = ("ssd.py", "generation.py", "llamba.py", "parts.py", "families.py", "hybrid.py")
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}

Documents = Mapping[str, str] | Callable[[Mapping[str, str]], Mapping[str, str]]
Shard = list[tuple[str, Entry]]


@dataclass(frozen=True)
class Piece:
    """One tensor of the target, and where it comes from."""

    name: str
    source: Checkpoint
    source_name: str


@dataclass
class Shelf:
    """Shards that earlier exports wrote, so that later ones link to them.

    With a shelf, every layer is a file of its own. `files` holds each with its SHA-256; `linked`
    counts the bytes that were not written.
    """

    files: dict[tuple[Any, ...], tuple[Path, str]] = field(default_factory=dict)
    linked: int = 0


def plan_pieces(
    parents: Sequence[Checkpoint], layers: LayerSet, graft: Graft = WHOLE
) -> list[Piece]:
    """Every tensor of the hybrid in the order of the model; nothing is read yet.

    parents: the base, then the donors.
    """
    base, *donors = parents
    chosen = layers.origins(graft.n_donors)
    mine = family_of(base.config)
    pieces: list[Piece] = []

    def below(source: Checkpoint, prefix: str, target: str, half: str = "layer") -> None:
        names = sorted(source.tensors_named_below(prefix))
        if half != "layer":
            wanted = family_of(source.config).halves.names(half)
            names = [name for name in names if name.split(".")[0] in wanted]
        pieces.extend(Piece(f"{target}.{n}", source, f"{prefix}.{n}") for n in names)

    below(base, mine.embedding, "model.embed_tokens")
    for i in range(base.n_layers):
        mine_at, target = f"{mine.layers}.{i}", f"model.layers.{i}"
        if i not in chosen:
            below(base, mine_at, target)
            continue
        donor = donors[chosen[i]]
        theirs_at = f"{family_of(donor.config).layers}.{graft.source(i, chosen[i])}"
        if graft.swap == "layer":
            below(donor, theirs_at, target)
        else:
            for half in ("mixer", "mlp"):
                source, at = (donor, theirs_at) if half == graft.swap else (base, mine_at)
                below(source, at, f"{target}.{half}", half)
    below(base, mine.norm, "model.norm")
    below(base, mine.head, "lm_head")
    return pieces


def plan_shards(pieces: list[Piece], dtype: str | None, by_layer: bool) -> list[Shard]:
    """The tensors of each file: up to `SHARD_BYTES` together, or one layer and the ends apart."""
    shards: dict[object, Shard] = {}
    number, filled = 0, 0
    for piece in pieces:
        entry = piece.source.entry(piece.source_name)
        size = entry.converted(dtype)[1]
        parts = piece.name.split(".")
        key: object = parts[2] if parts[1] == "layers" else "ends"
        if not by_layer:
            if filled and filled + size > SHARD_BYTES:
                number, filled = number + 1, 0
            key, filled = number, filled + size
        shards.setdefault(key, []).append((piece.name, entry))
    return list(shards.values())


def export_hybrid(
    base: Checkpoint,
    donor: Checkpoint,
    layers: LayerSet,
    out: Path,
    tokenizer: Path,
    documents: Documents,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    dtype: str | None = None,
    shelf: Shelf | None = None,
    graft: Graft = WHOLE,
    others: Sequence[Checkpoint] = (),
) -> Path:
    """Write the hybrid to the folder `out`, which must not exist; returns it.

    others: the donors after the first, of which `graft` has the maps.
    documents: text files that go along, by name; a function is called when all else is written,
    with the SHA-256 of every file. `progress(done, total)` counts bytes. dtype: one of `DTYPES`, to
    convert the weights to (None: as they are in the sources). shelf: link to the files of earlier
    exports that have the same tensors. Raises `InputError` for a target that exists or a dtype that
    is unknown, and `ExportError` for a disk that is full or not writable.
    """
    layers.check(base.n_layers, graft.n_donors)
    parents = (base, donor, *others)
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"--dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    check_target(out)
    target = DTYPES[dtype] if dtype else None
    pieces = plan_pieces(parents, layers, graft)
    dtype_of = _dtype_of(pieces, target)
    _check_whole(pieces, hybrid_config(parents, layers, graft, dtype_of), parents)
    shards = plan_shards(pieces, target, by_layer=shelf is not None)
    partial = out.parent / f".{out.name}.partial-{socket.gethostname()}-{os.getpid()}"
    try:
        _sweep(out)
        new = [s for s in shards if shelf is None or _key(s, target) not in shelf.files]
        _check_space(out, sum(_size(shard, target) for shard in new) + SPARE_BYTES)
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        written = _write_weights(partial, shards, target, progress, shelf)
        _write_config(partial, parents, layers, graft, dtype_of)
        copy_tokenizer(tokenizer, partial)
        folder = Path(hybrid_module.__file__).parent
        for file in MODELING:
            shutil.copyfile(folder / file, partial / file)
        texts = documents(_hashes(partial, written)) if callable(documents) else documents
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
        if out.exists():
            out.rmdir()
        partial.rename(out)
        _onto_disk(out.parent)
    except OSError as error:
        raise ExportError(
            f"--out {out}: could not be written ({error}); nothing was left behind. "
            "Mend that, or choose another folder"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if shelf is not None:
        shelf.files.update({key: (out / file, sha) for key, (file, sha) in written.items()})
    return out


def check_target(out: Path) -> None:
    """Raise `InputError` where no checkpoint can appear at `out`: it is there, or below a file.

    An empty folder is taken, a link is not: what it leads to is not replaced.
    """
    try:
        taken = out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir())))
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}; choose another folder") from None
    if taken:
        raise InputError(f"--out {out}: it exists already; choose another, or remove it")
    above = _above(out)
    if not above.is_dir():
        raise InputError(f"--out {out}: {above} is no folder; choose another")


def _check_whole(
    pieces: Sequence[Piece], config: HybridConfig, parents: Sequence[Checkpoint]
) -> None:
    """Raise `ModelError` where the sources lack a weight of the hybrid.

    Transformers would make one up, and only warn.
    """
    with torch.device("meta"):
        model = HybridForCausalLM(config)
    # A tied head is one parameter with the embedding, and so it is named once.
    lacking = {name for name, _ in model.named_parameters()} - {piece.name for piece in pieces}
    lacking.discard("lm_head.weight")  # tied in the file, if not in the model
    if lacking:
        sources = ", ".join(parent.name for parent in parents)
        raise ModelError(
            f"tensor {min(lacking)} of the hybrid is missing from the weights of {sources}; fetch "
            "them again"
        )


def _above(out: Path) -> Path:
    """The nearest of the folders above that is there, whatever it is."""
    return next(path for path in out.absolute().parents if os.path.lexists(path))


def _hashes(folder: Path, written: Mapping[Any, tuple[str, str]]) -> dict[str, str]:
    """SHA-256 of every file of the folder by name; that of weights is known from their writing."""
    found = dict(written.values())
    rest = {name: path for name, path in files_below(folder).items() if name not in found}
    hashes = hash_files(rest.values())
    return dict(sorted({**found, **{name: hashes[path] for name, path in rest.items()}}.items()))


def _check_space(out: Path, need: int) -> None:
    free = shutil.disk_usage(_above(out)).free
    if free < need:
        raise ExportError(
            f"--out {out}: {need / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free; "
            "free some space or choose another disk"
        )


def _sweep(out: Path) -> None:
    """Remove what killed exports to the same folder left behind on this host."""
    start = f".{out.name}.partial-{socket.gethostname()}-"
    for left in out.parent.glob(f"{glob.escape(start)}*"):
        pid = left.name.removeprefix(start)
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _onto_disk(folder: Path) -> None:
    """Make a rename inside a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _size(shard: Shard, dtype: str | None) -> int:
    return sum(entry.converted(dtype)[1] for _, entry in shard)


def _key(shard: Shard, dtype: str | None) -> tuple[Any, ...]:
    """What tells one shard from another: names, sources and dtype."""
    return (dtype, tuple((name, entry.file, entry.start) for name, entry in shard))


def _write_weights(
    folder: Path,
    shards: list[Shard],
    dtype: str | None,
    progress: Callable[[int, int], None],
    shelf: Shelf | None,
) -> dict[tuple[Any, ...], tuple[str, str]]:
    """Write or link every shard; what lies in which file, with its SHA-256."""
    total, done = sum(_size(shard, dtype) for shard in shards), 0
    where: dict[str, str] = {}
    written: dict[tuple[Any, ...], tuple[str, str]] = {}

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    for number, shard in enumerate(shards, start=1):
        file = SINGLE
        if len(shards) > 1:
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        key = _key(shard, dtype)
        earlier, sha = shelf.files.get(key, (None, "")) if shelf is not None else (None, "")
        if shelf is not None and earlier is not None and _link(earlier, folder / file):
            shelf.linked += _size(shard, dtype)
            advance(_size(shard, dtype))
        else:
            sha = write_tensors(folder / file, shard, dtype, advance)
        written[key] = (file, sha)
        where.update({name: file for name, _ in shard})
    if len(shards) > 1:
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
    return written


def _link(source: Path, target: Path) -> bool:
    """Link to a file; False where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def _dtype_of(pieces: list[Piece], dtype: str | None) -> torch.dtype:
    """The dtype to load the whole with: it holds what most weights of each parent are in.

    Checkpoints keep a few small tensors wider than the rest, which is no reason to widen all.
    """
    bytes_of: dict[str, Counter[str]] = {}
    for piece in pieces:
        entry = piece.source.entry(piece.source_name)
        kind, size = entry.converted(dtype)
        if kind in FLOATS:
            bytes_of.setdefault(str(piece.source.folder), Counter())[kind] += size
    kinds = [FLOATS[count.most_common(1)[0][0]] for count in bytes_of.values()]
    return functools.reduce(torch.promote_types, kinds)


def hybrid_config(
    parents: Sequence[Checkpoint], layers: LayerSet, graft: Graft, dtype: torch.dtype
) -> HybridConfig:
    """The config of a hybrid, with the (first) donor's special tokens."""
    configs = []
    for checkpoint in parents:
        data = {**checkpoint.config_dict, "model_type": checkpoint.config.model_type}
        for key in ("architectures", "auto_map", "_name_or_path", "transformers_version"):
            data.pop(key, None)
        configs.append(data)
    chosen = layers.origins(graft.n_donors)
    config = HybridConfig(
        base_config=configs[0],
        donor_config=configs[1],
        donor_layers=list(chosen),
        swap=graft.swap,
        donor_map=_listed(graft.donor_map),
        other_configs=configs[2:],
        other_maps=[_listed(known) for known in graft.others],
        givers=list(chosen.values()) if graft.n_donors > 1 else None,
        architectures=[HybridForCausalLM.__name__],
        **_special_tokens(parents[1]),
    )
    config.dtype = dtype
    return config


def _listed(known: Sequence[int] | None) -> list[int] | None:
    return None if known is None else list(known)


def _special_tokens(donor: Checkpoint) -> dict[str, Any]:
    kept = ("bos_token_id", "eos_token_id", "pad_token_id")
    tokens = {key: getattr(donor.config, key, None) for key in kept}
    return {key: value for key, value in tokens.items() if value is not None}


def _write_config(
    folder: Path,
    parents: Sequence[Checkpoint],
    layers: LayerSet,
    graft: Graft,
    dtype: torch.dtype,
) -> None:
    donor = parents[1]
    data = hybrid_config(parents, layers, graft, dtype).to_diff_dict()
    data["auto_map"] = {
        "AutoConfig": "hybrid.HybridConfig",
        "AutoModelForCausalLM": "hybrid.HybridForCausalLM",
    }
    _write_json(folder / "config.json", data)
    generation = donor.folder / "generation_config.json"
    if generation.is_file():
        shutil.copyfile(generation, folder / "generation_config.json")
    else:
        _write_json(folder / "generation_config.json", _special_tokens(donor))


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
