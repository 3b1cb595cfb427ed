"""Writing a hybrid as a Hugging Face folder, tensor by tensor from the source files.

The folder holds sharded safetensors, config, generation config, the tokenizer, a readable
modeling file with what it needs (so that it loads where optlayers is not installed) and the
documents that it is given. It appears by rename: a kill leaves nothing that looks finished.
"""

from __future__ import annotations

import functools
import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

from optlayers.checkpoints.hashes import files_below, hash_files
from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.plan import (
    Piece,
    Shard,
    Shelf,
    bytes_to_write,
    key_of,
    plan_pieces,
    plan_shards,
    size_of,
)
from optlayers.checkpoints.reader import INDEX, SINGLE, Checkpoint
from optlayers.checkpoints.target import (
    check_space,
    check_target,
    link,
    onto_disk,
    partial_folder,
    sweep,
)
from optlayers.checkpoints.tensorfile import FLOATS, write_tensors
from optlayers.checkpoints.tokenizer import copy_tokenizer
from optlayers.config.graft import WHOLE, Graft
from optlayers.errors import ExportError, InputError, ModelError
from optlayers.layerset import LayerSet
from optlayers.models import hybrid as hybrid_module
from optlayers.models.hybrid import HybridConfig, HybridForCausalLM

SPARE_BYTES = 50_000_000
AT_ONCE = 4  # files; each has a buffer of its own
MEND = "free some space or choose another disk"
MODELING = ("ssd.py", "generation.py", "llamba.py", "parts.py", "families.py", "hybrid.py")
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}

Documents = Mapping[str, str] | Callable[[Mapping[str, str]], Mapping[str, str]]


def export_hybrid(
    parents: Parents,
    layers: LayerSet,
    out: Path,
    tokenizer: Path,
    documents: Documents,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    dtype: str | None = None,
    shelf: Shelf | None = None,
    graft: Graft = WHOLE,
) -> Path:
    """Write the hybrid to the folder `out`, which must not exist; returns it.

    documents: text files that go along, by name; a function is called when all else is written,
    with the SHA-256 of every file. `progress(done, total)` counts bytes. dtype: one of `DTYPES`, to
    convert the weights to (None: as they are in the sources). shelf: link to the files of earlier
    exports that have the same tensors. Raises `InputError` for a target that exists or a dtype that
    is unknown, and `ExportError` for a disk that is full or not writable.
    """
    graft.space(parents.n_layers).check(layers)
    target = _in_format(dtype)
    check_target(out)
    pieces = plan_pieces(parents, layers, graft)
    dtype_of = _dtype_of(pieces, target)
    _check_whole(pieces, hybrid_config(parents, layers, graft, dtype_of), parents)
    shards = plan_shards(pieces, target, by_layer=shelf is not None)
    try:
        sweep(out)
        need = bytes_to_write([shards], target, shelf) + SPARE_BYTES
        check_space(out, "", need, MEND)
        with partial_folder(out) as partial:
            written = _write_weights(partial, shards, target, progress, shelf)
            _write_config(partial, parents, layers, graft, dtype_of)
            copy_tokenizer(tokenizer, partial)
            folder = Path(hybrid_module.__file__).parent
            for file in MODELING:
                shutil.copyfile(folder / file, partial / file)
            texts = documents(_hashes(partial, written)) if callable(documents) else documents
            for name, text in texts.items():
                (partial / name).write_text(text, encoding="utf-8")
            onto_disk(*partial.iterdir(), partial)
            if out.exists():
                out.rmdir()
            partial.rename(out)
            onto_disk(out.parent)
    except OSError as error:
        raise ExportError(
            f"--out {out}: could not be written ({error}); nothing was left behind. "
            "Mend that, or choose another folder"
        ) from None
    if shelf is not None:
        shelf.files.update({key: (out / file, sha) for key, (file, sha) in written.items()})
    return out


def check_room(
    parents: Parents,
    sets: Sequence[LayerSet],
    outs: Sequence[Path],
    *,
    dtype: str | None = None,
    shelf: Shelf | None = None,
    graft: Graft = WHOLE,
) -> None:
    """Raise `ExportError` where the disk has no room for all of several exports.

    The arguments are those of `export_hybrid`; outs: folders to be, side by side. What killed
    exports to them left behind is removed first.
    """
    target = _in_format(dtype)
    for out in outs:
        sweep(out)
    pieces = (plan_pieces(parents, layers, graft) for layers in sets)
    plans = [plan_shards(found, target, by_layer=shelf is not None) for found in pieces]
    need = bytes_to_write(plans, target, shelf) + len(outs) * SPARE_BYTES
    what, mend = "", MEND
    if len(outs) > 1:
        once = ", or equal layers once with --link" if shelf is None else ""
        what = f" for {len(outs)} checkpoints"
        mend = f"{MEND}, or write fewer with --top{once}"
    check_space(outs[0].parent, what, need, mend)


def _in_format(dtype: str | None) -> str | None:
    """A dtype in the words of safetensors; raises `InputError` for an unknown one."""
    if dtype is None:
        return None
    if dtype not in DTYPES:
        raise InputError(f"--dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _check_whole(pieces: Sequence[Piece], config: HybridConfig, parents: Parents) -> None:
    """Raise `ModelError` where the sources lack a weight of the hybrid.

    Transformers would make one up, and only warn.
    """
    with torch.device("meta"):
        model = HybridForCausalLM(config)
    # A tied head is one parameter with the embedding, and so it is named once.
    lacking = {name for name, _ in model.named_parameters()} - {piece.name for piece in pieces}
    lacking.discard("lm_head.weight")  # tied in the file, if not in the model
    if lacking:
        sources = ", ".join(parent.name for parent in parents.all)
        raise ModelError(
            f"tensor {min(lacking)} of the hybrid is missing from the weights of {sources}; fetch "
            "them again"
        )


def _hashes(folder: Path, written: Mapping[Any, tuple[str, str]]) -> dict[str, str]:
    """SHA-256 of every file of the folder by name; that of weights is known from their writing."""
    found = dict(written.values())
    rest = {name: path for name, path in files_below(folder).items() if name not in found}
    hashes = hash_files(rest.values())
    return dict(sorted({**found, **{name: hashes[path] for name, path in rest.items()}}.items()))


def _write_weights(
    folder: Path,
    shards: list[Shard],
    dtype: str | None,
    progress: Callable[[int, int], None],
    shelf: Shelf | None,
) -> dict[tuple[Any, ...], tuple[str, str]]:
    """Write or link every shard; what lies in which file, with its SHA-256."""
    total, done = sum(size_of(shard, dtype) for shard in shards), 0
    where: dict[str, str] = {}
    written: dict[tuple[Any, ...], tuple[str, str]] = {}
    lock, stop = threading.Lock(), threading.Event()

    def advance(count: int) -> None:
        nonlocal done
        if stop.is_set():
            raise InterruptedError("another file could not be written")
        with lock:
            done += count
            progress(done, total)

    # Several files at once: one is read while another is hashed, and a third goes onto the disk.
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        coming: list[tuple[tuple[Any, ...], str, Future[str]]] = []
        try:
            for number, shard in enumerate(shards, start=1):
                file = SINGLE
                if len(shards) > 1:
                    file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
                where.update({name: file for name, _ in shard})
                key = key_of(shard, dtype)
                earlier, sha = shelf.files.get(key, (None, "")) if shelf is not None else (None, "")
                if shelf is not None and earlier is not None and link(earlier, folder / file):
                    shelf.linked += size_of(shard, dtype)
                    advance(size_of(shard, dtype))
                    written[key] = (file, sha)
                else:
                    job = pool.submit(write_tensors, folder / file, shard, dtype, advance)
                    coming.append((key, file, job))
            for failed in wait((job for *_, job in coming), return_when=FIRST_EXCEPTION).done:
                failed.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
        written.update({key: (file, job.result()) for key, file, job in coming})
    if len(shards) > 1:
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
    return written


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
    parents: Parents, layers: LayerSet, graft: Graft, dtype: torch.dtype
) -> HybridConfig:
    """The config of a hybrid, with the (first) donor's special tokens."""
    configs = []
    for checkpoint in parents.all:
        data = {**checkpoint.config_dict, "model_type": checkpoint.config.model_type}
        for key in ("architectures", "auto_map", "_name_or_path", "transformers_version"):
            data.pop(key, None)
        configs.append(data)
    chosen = graft.space().origins(layers)
    config = HybridConfig(
        base_config=configs[0],
        donor_config=configs[1],
        donor_layers=list(chosen),
        swap=graft.swap,
        donor_map=_listed(graft.maps[0]),
        other_configs=configs[2:],
        other_maps=[_listed(known) for known in graft.maps[1:]],
        givers=list(chosen.values()) if len(graft.maps) > 1 else None,
        architectures=[HybridForCausalLM.__name__],
        **_special_tokens(parents.donors[0]),
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
    parents: Parents,
    layers: LayerSet,
    graft: Graft,
    dtype: torch.dtype,
) -> None:
    donor = parents.donors[0]
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
