"""SHA-256 of files: what an export wrote, and whether a folder still holds that."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Texts for people, which their owner may rewrite; the second holds the hashes themselves.
FREE = ("README.md", "checkpoint_info.json")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal; raises `OSError`."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_files(paths: Iterable[Path]) -> dict[Path, str]:
    """The SHA-256 of files, several at a time; raises `OSError`."""
    paths = list(paths)
    # Half of the cores: others copy weights meanwhile.
    workers = max(1, min(8, (os.cpu_count() or 1) // 2))
    with ThreadPoolExecutor(max_workers=workers) as pool:
        return dict(zip(paths, pool.map(sha256_of, paths), strict=True))


def files_below(folder: Path) -> dict[str, Path]:
    """What a checkpoint is made of: every file by its name below a folder.

    Left out are `FREE`, hidden files and folders (a hub's client keeps its notes there), and what
    Python compiles.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
        if path.is_file() and not hidden and name.as_posix() not in FREE:
            found[name.as_posix()] = path
    return found


def differences(folder: Path, recorded: Mapping[str, str]) -> dict[str, str]:
    """The files of a folder that are not those recorded, by name, and what is the matter."""
    here = files_below(folder)
    hashes = hash_files(here[name] for name in recorded if name in here)
    found = {}
    for name, expected in sorted(recorded.items()):
        if name not in here:
            found[name] = "is missing"
        elif hashes[here[name]] != expected:
            found[name] = f"was changed: its SHA-256 is {hashes[here[name]]}, and was {expected}"
    found |= dict.fromkeys(sorted(set(here) - set(recorded)), "was added")
    return found
