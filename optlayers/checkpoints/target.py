"""Where a checkpoint is to appear: whether it can, its partial folder, and what the killed left."""

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

from optlayers.errors import ExportError, InputError


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
    if not above(out).is_dir():
        raise InputError(f"--out {out}: {above(out)} is no folder; choose another")


def above(out: Path) -> Path:
    """The nearest of the folders above that is there, whatever it is."""
    return next(path for path in out.absolute().parents if os.path.lexists(path))


def check_space(out: Path, what: str, need: int, mend: str) -> None:
    """Raise `ExportError` where a disk has not that many bytes free for what goes to `out`.

    what: what they are needed for, after a space; mend: what to do about it.
    """
    free = shutil.disk_usage(above(out / "any")).free
    if free < need:
        raise ExportError(
            f"--out {out}: {need / 1e9:.2f} GB are needed{what} and {free / 1e9:.2f} GB are free; "
            f"{mend}"
        )


@contextlib.contextmanager
def partial_folder(out: Path) -> Iterator[Path]:
    """A new folder beside `out` to write in and to rename; what is left of it goes at the end.

    It is locked meanwhile, so that `sweep` tells what the dead left from what is being written.
    """
    folder = out.parent / f"{_start(out)}{os.getpid()}"
    folder.mkdir(parents=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        os.close(handle)
        shutil.rmtree(folder, ignore_errors=True)


def sweep(out: Path) -> None:
    """Remove what killed exports to the same folder left behind on this host."""
    for left in out.parent.glob(f"{glob.escape(_start(out))}*"):
        pid = left.name.removeprefix(_start(out))
        if pid.isdigit() and not _is_held(left, int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _start(out: Path) -> str:
    return f".{out.name}.partial-{socket.gethostname()}-"


def _is_held(folder: Path, pid: int) -> bool:
    """Whether a living process writes in a partial folder.

    A process number says little: it is given again, and in containers it often is the same one.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return True  # it is gone, or not ours
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return pid != os.getpid() and _alive(pid)
    finally:
        os.close(handle)
    return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def onto_disk(*paths: Path) -> None:
    """Make what files hold, and what folders list, survive a power cut."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def link(source: Path, target: Path) -> bool:
    """Link to a file; False where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def can_link(folder: Path) -> bool:
    """Whether files that will lie in a folder can be linked to each other."""
    try:
        with tempfile.TemporaryDirectory(prefix=".link-", dir=above(folder / "any")) as work:
            (Path(work) / "file").touch()
            return link(Path(work) / "file", Path(work) / "link")
    except OSError:
        return False
