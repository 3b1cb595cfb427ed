"""Weights mapped from files, so that the worker processes of a machine share one copy.

Weights of another dtype are converted to a file first. A converted file exists as long as a process
holds a lock on it; the last one to release its lock deletes it, and those of killed processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from optlayers.checkpoints.fetch import models_folder
from optlayers.checkpoints.reader import Checkpoint
from optlayers.checkpoints.tensorfile import ALIGNED, FLOATS, TensorEntry, write_tensors

FOLDER = ".converted"
LOCK = "lock"
LOCK_SECONDS = 2.0  # converting a large model takes longer, but whoever does it cleans up after
NAMES = {dtype: name for name, dtype in FLOATS.items()}
GB = 10**9


@dataclass
class Conversion:
    """Tensors of a checkpoint to convert to another dtype, and the file for them."""

    checkpoint: Checkpoint
    names: Sequence[str]
    dtype: torch.dtype

    def __post_init__(self) -> None:
        self.entries = [(name, self.checkpoint.entry(name)) for name in self.names]
        # Sizes of whole cache lines first, so that all matrices are aligned.
        self.entries.sort(key=lambda item: item[1].converted(NAMES[self.dtype])[1] % ALIGNED != 0)
        self.path = models_folder() / FOLDER / f"{_key(self.entries, self.dtype)}.safetensors"

    @property
    def size(self) -> int:
        """Bytes of the converted tensors."""
        return sum(entry.converted(NAMES[self.dtype])[1] for _, entry in self.entries)


def map_weights(
    checkpoints: Sequence[Checkpoint],
    needed: Sequence[Sequence[str]],
    dtype: torch.dtype,
    say: Callable[[str], None],
    held: contextlib.ExitStack,
) -> list[Checkpoint]:
    """The checkpoints with all needed tensors mapped in a dtype, if the disk allows it.

    needed: the names of the tensors of each. Converted files are in use until `held` is closed. If
    they cannot be written, each process keeps its own copy, and `say` gets the reason. Raises
    `ModelError` for a broken source.
    """
    values, conversions = 0, {}
    for place, (checkpoint, names) in enumerate(zip(checkpoints, needed, strict=True)):
        entries = {name: checkpoint.entry(name) for name in names}
        values += sum(math.prod(entry.shape) for entry in entries.values())
        others = [n for n, e in entries.items() if FLOATS.get(e.dtype, dtype) != dtype]
        if others:
            conversions[place] = Conversion(checkpoint, others, dtype)
    size = (
        f"{values * dtype.itemsize / GB:.2f} GB of weights in {str(dtype).removeprefix('torch.')}"
    )
    folder = models_folder() / FOLDER
    where = f"converted in {folder} while in use" if conversions else "in their files"
    say(f"{size}, {where}, mapped: one copy for all workers of this machine")
    found = list(checkpoints)
    if not conversions:
        return found
    try:
        converted = hold(list(conversions.values()), say, held)
    except OSError as error:
        held.close()
        say(
            f"{size}, a copy in each worker instead ({error}); set OPTLAYERS_MODELS to a folder on "
            "a larger disk, or run in the dtype of the files"
        )
        return found
    for place, checkpoint in zip(conversions, converted, strict=True):
        found[place] = checkpoint
    return found


def hold(
    conversions: Sequence[Conversion], say: Callable[[str], None], held: contextlib.ExitStack
) -> list[Checkpoint]:
    """The checkpoints, reading from converted files, which are written if they are missing.

    The files are in use until `held` is closed; what is mapped stays readable. Raises `OSError`
    with a reason for the user, and `ModelError` for a broken source.
    """
    folder = models_folder() / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    held.callback(_clean_up, folder)  # runs after all files are closed
    with _locked(folder):
        _delete_unused(folder, {one.path for one in conversions})
        need = sum(one.size for one in conversions if not one.path.is_file())
        free = shutil.disk_usage(folder).free
        if free < need:
            raise OSError(f"{folder} has {free / 1e9:.2f} GB free and {need / 1e9:.2f} are needed")
        for one in conversions:
            if not one.path.is_file():
                _convert(one, say)
            held.callback(os.close, _shared_lock(one.path))
    return [one.checkpoint.reading_from(one.path, one.names) for one in conversions]


def _convert(one: Conversion, say: Callable[[str], None]) -> None:
    say(f"converting {one.checkpoint.name} to {str(one.dtype).removeprefix('torch.')}")
    partial = one.path.with_suffix(".partial")
    try:
        write_tensors(partial, one.entries, NAMES[one.dtype])
        partial.rename(one.path)
    finally:
        partial.unlink(missing_ok=True)


def _shared_lock(path: Path) -> int:
    """A handle with a lock that marks a file as in use."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
    except OSError:
        os.close(handle)
        raise
    return handle


def _clean_up(folder: Path) -> None:
    """Delete the files that no process holds, unless another process is converting."""
    with contextlib.suppress(OSError), _locked(folder, LOCK_SECONDS):
        _delete_unused(folder, set())


def _key(entries: Sequence[tuple[str, TensorEntry]], dtype: torch.dtype) -> str:
    """A name for converted tensors, which changes with the source files."""
    files = {str(entry.file.resolve()) for _, entry in entries}
    states = [(file, (stat := os.stat(file)).st_size, stat.st_mtime_ns) for file in sorted(files)]
    content = json.dumps([states, [name for name, _ in entries], NAMES[dtype]])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


@contextlib.contextmanager
def _locked(folder: Path, seconds: float = math.inf) -> Iterator[None]:
    """Hold the lock for writing and deleting files; `OSError` if not free within `seconds`."""
    handle = os.open(folder / LOCK, os.O_RDONLY | os.O_CREAT, 0o666)
    end = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if end < math.inf else 0))
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.005)
        yield
    finally:
        os.close(handle)


def _delete_unused(folder: Path, keep: set[Path]) -> None:
    """Delete the files that no process holds, except some; needs the lock of the folder."""
    for left in folder.iterdir():
        if left.name == LOCK or left in keep:
            continue
        with contextlib.suppress(OSError):
            handle = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            finally:
                os.close(handle)
