"""The folder that a checkpoint is written to: checks, a partial folder, leftovers, hard links."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from optlayers.checkpoints.files import nearest_existing
from optlayers.errors import InputError


def check_target(out: Path) -> None:
    """Raise `InputError` unless a checkpoint can be written at `out`, or it is an empty folder."""
    try:
        taken = out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir())))
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}; choose another folder") from None
    if taken:
        raise InputError(f"--out {out}: it exists already; choose another, or remove it")
    parent = nearest_existing(out.absolute().parent)
    if not parent.is_dir():
        raise InputError(f"--out {out}: {parent} is not a folder; choose another")


@contextlib.contextmanager
def partial_folder(out: Path) -> Iterator[Path]:
    """A new folder next to `out`, to write in and then rename; deleted at the end if still there.

    It is locked meanwhile, which tells `remove_leftovers` that it is in use.
    """
    folder = out.parent / f"{_prefix(out)}{os.getpid()}"
    folder.mkdir(parents=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        os.close(handle)
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(out: Path) -> None:
    """Remove the partial folders of killed exports to the same folder on this host."""
    for left in out.parent.glob(f"{glob.escape(_prefix(out))}*"):
        if left.name.removeprefix(_prefix(out)).isdigit() and not _is_locked(left):
            shutil.rmtree(left, ignore_errors=True)


def _prefix(out: Path) -> str:
    return f".{out.name}.partial-{socket.gethostname()}-"


def _is_locked(folder: Path) -> bool:
    """Whether another process holds the lock; also True where that cannot be known.

    The process number in the name proves nothing: numbers are reused, in containers often.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def link(source: Path, target: Path) -> bool:
    """Make a hard link; False where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def can_link(folder: Path) -> bool:
    """Whether the file system of a folder, or of its parent to be, has hard links."""
    try:
        parent = nearest_existing(folder)
        with tempfile.TemporaryDirectory(prefix=".link-", dir=parent) as work:
            (Path(work) / "file").touch()
            return link(Path(work) / "file", Path(work) / "link")
    except OSError:
        return False
