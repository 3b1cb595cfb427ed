"""Weights in another dtype than their file's, as a file that the processes of a machine map.

What is mapped is in memory once, however many processes read it. A converted file lives as long
as somebody holds it: the last to let go removes it, and with it what the killed have left.
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
PATIENCE = 2.0  # seconds; to convert a large model takes longer, and who did it tidies up after
WORDS = {dtype: word for word, dtype in FLOATS.items()}


@dataclass
class Wanted:
    """Tensors of a checkpoint that are to be had in another dtype, and their file."""

    checkpoint: Checkpoint
    names: Sequence[str]
    dtype: torch.dtype

    def __post_init__(self) -> None:
        self.entries = [(name, self.checkpoint.entry(name)) for name in self.names]
        # Those of whole cache lines first, so that all matrices are aligned.
        self.entries.sort(key=lambda item: item[1].converted(WORDS[self.dtype])[1] % ALIGNED != 0)
        self.path = models_folder() / FOLDER / f"{_key(self.entries, self.dtype)}.safetensors"

    @property
    def size(self) -> int:
        """Bytes of what is converted."""
        return sum(entry.converted(WORDS[self.dtype])[1] for _, entry in self.entries)


def other_dtype(checkpoint: Checkpoint, names: Sequence[str], dtype: torch.dtype) -> list[str]:
    """Those of the tensors that hold floating-point numbers of another dtype."""
    kinds = {name: checkpoint.entry(name).dtype for name in names}
    return [name for name in names if kinds[name] in FLOATS and FLOATS[kinds[name]] != dtype]


def hold(
    wanted: Sequence[Wanted], say: Callable[[str], None], held: contextlib.ExitStack
) -> list[Checkpoint]:
    """The checkpoints as they read from converted files, made now or by another process.

    The files are in use until `held` is closed; what is mapped stays readable after it. Raises
    `OSError` where the disk or the file system refuses, with a reason for the user, and
    `ModelError` for a source that is broken.
    """
    folder = models_folder() / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    held.callback(_tidy, folder)  # once all files are closed
    with _locked(folder):
        _sweep(folder, {one.path for one in wanted})
        need = sum(one.size for one in wanted if not one.path.is_file())
        free = shutil.disk_usage(folder).free
        if free < need:
            raise OSError(f"{folder} has {free / 1e9:.2f} GB free and {need / 1e9:.2f} are needed")
        for one in wanted:
            if not one.path.is_file():
                _convert(one, say)
            held.callback(os.close, _shared_lock(one.path))
    return [one.checkpoint.reading_from(one.path, one.names) for one in wanted]


def _convert(one: Wanted, say: Callable[[str], None]) -> None:
    say(f"converting {one.checkpoint.name} to {str(one.dtype).removeprefix('torch.')}")
    partial = one.path.with_suffix(".partial")
    try:
        write_tensors(partial, one.entries, WORDS[one.dtype])
        partial.rename(one.path)
    finally:
        partial.unlink(missing_ok=True)


def _shared_lock(path: Path) -> int:
    """A handle whose lock says that the file is in use."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
    except OSError:
        os.close(handle)
        raise
    return handle


def _tidy(folder: Path) -> None:
    """Remove what nobody holds any more. Others do so too, or make files: wait for the former."""
    with contextlib.suppress(OSError), _locked(folder, PATIENCE):
        _sweep(folder, set())


def _key(entries: Sequence[tuple[str, TensorEntry]], dtype: torch.dtype) -> str:
    """A name for what is converted, new where a source has changed."""
    files = {str(entry.file.resolve()) for _, entry in entries}
    states = [(file, (stat := os.stat(file)).st_size, stat.st_mtime_ns) for file in sorted(files)]
    said = json.dumps([states, [name for name, _ in entries], WORDS[dtype]])
    return hashlib.sha256(said.encode()).hexdigest()[:32]


@contextlib.contextmanager
def _locked(folder: Path, seconds: float = math.inf) -> Iterator[None]:
    """One process at a time makes and removes files; `OSError` where it may not, or not so soon."""
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


def _sweep(folder: Path, wanted: set[Path]) -> None:
    """Remove what nobody holds, save what is wanted; the folder is locked."""
    for left in folder.iterdir():
        if left.name == LOCK or left in wanted:
            continue
        with contextlib.suppress(OSError):
            handle = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            finally:
                os.close(handle)
