"""Files and folders of checkpoints: SHA-256, free space, what has changed."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from optlayers.config.machine import cores
from optlayers.errors import ModelError

INFO = "checkpoint_info.json"
# Users may edit the first; the second holds the hashes themselves.
NOT_HASHED = ("README.md", INFO)
# Files that name the classes to load, which may be in any module.
NAMES_CODE = ("config.json", "tokenizer_config.json")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal; raises `OSError`."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_files(paths: Iterable[Path]) -> dict[Path, str]:
    """The SHA-256 of files, several at a time; raises `OSError`."""
    paths = list(paths)
    # Half of the cores, since weights are copied meanwhile.
    workers = max(1, min(8, cores() // 2))
    with ThreadPoolExecutor(max_workers=workers) as pool:
        return dict(zip(paths, pool.map(sha256_of, paths), strict=True))


def checkpoint_files(folder: Path) -> dict[str, Path]:
    """The files of a checkpoint by their names relative to the folder.

    Without `NOT_HASHED`, hidden files and folders (hub clients keep notes there) and bytecode.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
        if path.is_file() and not hidden and name.as_posix() not in NOT_HASHED:
            found[name.as_posix()] = path
    return found


def changed_files(info: Mapping[str, Any], folder: Path) -> dict[str, str] | None:
    """The files of a checkpoint that differ from what was exported, by name, and how they differ.

    info: its `checkpoint_info.json`. None where that records no hashes: an early version wrote it.
    Raises `ModelError` where a file cannot be read.
    """
    recorded = info.get("files")
    if not recorded:
        return None
    if not isinstance(recorded, dict):
        raise ModelError(f"{folder / INFO}: `files` is not a table of hashes; export it again")
    here = checkpoint_files(folder)
    try:
        hashes = hash_files(here[name] for name in recorded if name in here)
    except OSError as error:
        raise ModelError(f"{folder}: cannot be read ({error}); export it again") from None
    found = {}
    for name, expected in sorted(recorded.items()):
        if name not in here:
            found[name] = "is missing"
        elif hashes[here[name]] != expected:
            found[name] = f"was changed: its SHA-256 is {hashes[here[name]]}, and was {expected}"
    return found | dict.fromkeys(sorted(set(here) - set(recorded)), "was added")


def runs_changed_code(changed: Mapping[str, str]) -> bool:
    """Whether loading a checkpoint with these changed files may run code that was not exported."""
    return any(name in NAMES_CODE or name.endswith(".py") for name in changed)


def nearest_existing(path: Path) -> Path:
    """A path if it exists, or else its nearest existing parent."""
    path = path.absolute()
    return next(p for p in (path, *path.parents) if os.path.lexists(p))


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk where a folder is, or will be."""
    return shutil.disk_usage(nearest_existing(folder)).free


def flush_to_disk(*paths: Path) -> None:
    """Flush files and folders to disk, so that they survive a power failure."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
