"""Writing hybrids as Hugging Face folders, tensor by tensor from the source files.

A folder holds sharded safetensors, config, generation config, tokenizer, the modeling files (so
that it loads where optlayers is not installed) and the given documents. It appears by rename, so a
killed export leaves nothing that looks finished.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optlayers.checkpoints.assembly import (
    Piece,
    check_complete,
    dtype_of,
    hybrid_config,
    plan_pieces,
)
from optlayers.checkpoints.files import checkpoint_files, flush_to_disk, free_bytes, hash_files
from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import INDEX, SINGLE
from optlayers.checkpoints.target import check_target, link, partial_folder, remove_leftovers
from optlayers.checkpoints.tensorfile import TensorEntry, write_tensors
from optlayers.checkpoints.tokenizer import copy_tokenizer, special_tokens
from optlayers.config.graft import WHOLE, Graft
from optlayers.errors import ExportError, InputError
from optlayers.layerset import LayerSet
from optlayers.models import hybrid as hybrid_module
from optlayers.models.hybrid import HybridConfig

SHARD_BYTES = 2_000_000_000
SPARE_BYTES = 50_000_000
WRITERS = 4  # files written at a time, each through its own buffer
MODELING = ("ssd.py", "generation.py", "llamba.py", "parts.py", "families.py", "hybrid.py")
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}

Documents = Callable[[Mapping[str, str]], Mapping[str, str]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Shard:
    """The tensors of one file to write, by name, and the dtype to convert them to."""

    tensors: tuple[tuple[str, TensorEntry], ...]
    dtype: str | None

    @property
    def size(self) -> int:
        """Bytes of the tensors, once converted."""
        return sum(entry.converted(self.dtype)[1] for _, entry in self.tensors)


@dataclass
class CheckpointWriter:
    """Writes hybrids of some parents.

    tokenizer: its folder. trust: it runs its own code. dtype: one of `DTYPES` to convert the
    weights to (None: as they are). link: every layer is a separate file, hard-linked to the
    file of an earlier export with the same tensors; `linked_bytes` counts those. Raises
    `InputError` for an unknown dtype.
    """

    parents: Parents
    tokenizer: Path
    graft: Graft = WHOLE
    dtype: str | None = None
    link: bool = False
    trust: bool = False
    linked_bytes: int = field(default=0, init=False)
    # Each file written for `link`, and its SHA-256.
    _written: dict[Shard, tuple[Path, str]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.dtype not in (None, *DTYPES):
            raise InputError(f"--dtype {self.dtype!r}: choose one of {', '.join(DTYPES)}")

    def check_space(self, sets: Sequence[LayerSet], outs: Sequence[Path]) -> None:
        """Raise `ExportError` unless the disk has room for all of several exports.

        outs: folders in one parent folder. Leftovers of killed exports to them are removed first.
        """
        for out in outs:
            remove_leftovers(out)
        shards = [shard for layers in sets for shard in self._shards(self._pieces(layers))]
        what, fix = "", "free some space or choose another disk"
        if len(outs) > 1:
            what = f" for {len(outs)} checkpoints"
            fix += ", or write fewer with --top"
            fix += "" if self.link else ", or equal layers once with --link"
        self._check_bytes(outs[0].parent, shards, len(outs), what, fix)

    def write(
        self,
        layers: LayerSet,
        out: Path,
        documents: Documents | None = None,
        progress: Progress = lambda done, total: None,
    ) -> Path:
        """Write one hybrid to the folder `out`, which must not exist or be empty; returns it.

        documents: returns further text files, by name, from the SHA-256 of all files written.
        progress: called with the bytes written and the total. Raises `InputError` for a target that
        exists, `ExportError` for a disk that is full or not writable.
        """
        self.graft.space(self.parents.n_layers).check(layers)
        check_target(out)
        pieces = self._pieces(layers)
        kind = dtype_of(pieces, DTYPES.get(self.dtype or ""))
        tokens = special_tokens(self.parents, self.tokenizer, self.trust)
        config = hybrid_config(self.parents, layers, self.graft, kind, tokens)
        check_complete(pieces, config, self.parents)
        shards = self._shards(pieces)
        try:
            remove_leftovers(out)
            self._check_bytes(out, shards, 1, "", "free some space or choose another disk")
            with partial_folder(out) as partial:
                written = self._write_weights(partial, shards, progress)
                self._write_config(partial, config, tokens)
                for file in MODELING:
                    shutil.copyfile(Path(hybrid_module.__file__).parent / file, partial / file)
                copy_tokenizer(self.tokenizer, partial, self.trust)
                if documents is not None:
                    hashes = _hashes(partial, dict(written.values()))
                    for name, text in documents(hashes).items():
                        (partial / name).write_text(text, encoding="utf-8")
                flush_to_disk(*partial.rglob("*"), partial)
                if out.exists():
                    out.rmdir()
                partial.rename(out)
                flush_to_disk(out.parent)
        except OSError as error:
            raise ExportError(
                f"--out {out}: could not be written ({error}); nothing was left behind. "
                "Fix that, or choose another folder"
            ) from None
        if self.link:
            self._written |= {shard: (out / file, sha) for shard, (file, sha) in written.items()}
        return out

    def _pieces(self, layers: LayerSet) -> list[Piece]:
        return plan_pieces(self.parents, layers, self.graft)

    def _shards(self, pieces: Sequence[Piece]) -> list[Shard]:
        """The files of an export: up to `SHARD_BYTES` each; with `link`, one per layer."""
        dtype = DTYPES.get(self.dtype or "")
        files: dict[object, list[tuple[str, TensorEntry]]] = {}
        number, filled = 0, 0
        for piece in pieces:
            entry = piece.entry
            size = entry.converted(dtype)[1]
            parts = piece.name.split(".")
            key: object = parts[2] if parts[1] == "layers" else "ends"
            if not self.link:
                if filled and filled + size > SHARD_BYTES:
                    number, filled = number + 1, 0
                key, filled = number, filled + size
            files.setdefault(key, []).append((piece.name, entry))
        return [Shard(tuple(tensors), dtype) for tensors in files.values()]

    def _check_bytes(
        self, out: Path, shards: Iterable[Shard], exports: int, what: str, fix: str
    ) -> None:
        if self.link:
            shards = set(shards) - self._written.keys()
        need = sum(shard.size for shard in shards) + exports * SPARE_BYTES
        free = free_bytes(out)
        if free < need:
            raise ExportError(
                f"--out {out}: {need / 1e9:.2f} GB are needed{what} and {free / 1e9:.2f} GB are "
                f"free; {fix}"
            )

    def _write_weights(
        self, folder: Path, shards: Sequence[Shard], progress: Progress
    ) -> dict[Shard, tuple[str, str]]:
        """Write or link every shard; returns its file name and SHA-256."""
        total, done = sum(shard.size for shard in shards), 0
        file_of: dict[str, str] = {}
        written: dict[Shard, tuple[str, str]] = {}
        jobs: list[tuple[Shard, str, Future[str]]] = []
        lock, stop = threading.Lock(), threading.Event()

        def advance(count: int) -> None:
            nonlocal done
            if stop.is_set():
                raise InterruptedError("another file could not be written")
            with lock:
                done += count
                progress(done, total)

        # Reading, hashing and writing of several files overlap.
        with ThreadPoolExecutor(max_workers=WRITERS) as pool:
            try:
                for number, shard in enumerate(shards, start=1):
                    file = SINGLE
                    if len(shards) > 1:
                        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
                    file_of.update({name: file for name, _ in shard.tensors})
                    earlier = self._written.get(shard)
                    if earlier is not None and link(earlier[0], folder / file):
                        self.linked_bytes += shard.size
                        advance(shard.size)
                        written[shard] = (file, earlier[1])
                    else:
                        target = folder / file
                        job = pool.submit(
                            write_tensors, target, shard.tensors, shard.dtype, advance
                        )
                        jobs.append((shard, file, job))
                for ended in wait((job for *_, job in jobs), return_when=FIRST_EXCEPTION).done:
                    ended.result()
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        written.update({shard: (file, job.result()) for shard, file, job in jobs})
        if len(shards) > 1:
            _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": file_of})
        return written

    def _write_config(self, folder: Path, config: HybridConfig, tokens: Mapping[str, Any]) -> None:
        auto_map = {
            "AutoConfig": "hybrid.HybridConfig",
            "AutoModelForCausalLM": "hybrid.HybridForCausalLM",
        }
        _write_json(folder / "config.json", {**config.to_diff_dict(), "auto_map": auto_map})
        # Settings of generation belong to the tokens that they name.
        generation = self.tokenizer / "generation_config.json"
        if holds_object(generation):
            shutil.copyfile(generation, folder / "generation_config.json")
        else:
            _write_json(folder / "generation_config.json", dict(tokens))


def _hashes(folder: Path, known: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 of every file of a checkpoint, by name; known: of the weights."""
    rest = {name: path for name, path in checkpoint_files(folder).items() if name not in known}
    hashes = hash_files(rest.values())
    return dict(sorted({**known, **{name: hashes[path] for name, path in rest.items()}}.items()))


def holds_object(path: Path) -> bool:
    """Whether a file is there and holds a JSON object."""
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (OSError, ValueError):
        return False


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
