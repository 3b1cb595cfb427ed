"""The folder where a run keeps its text and its state until it is done."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from accelerate import PartialState

from optlayers.checkpoints.files import free_bytes
from optlayers.distill.processes import together
from optlayers.errors import ExportError, InputError

NOTE = "options.json"


class WorkFolder(contextlib.AbstractContextManager["WorkFolder"]):
    """A hidden folder beside the output, from which a killed run continues.

    settings: of the run. As a context the folder exists and is locked by the first process; it
    stays until `remove`. Raises `InputError` where it holds a run with other settings, or one that
    is going on.
    """

    def __init__(self, out: Path, command: str, settings: Mapping[str, object]) -> None:
        self.out = out
        self.path = out.absolute().parent / f".{out.absolute().name}.{command}"
        self._settings = dict(settings)
        self._handle: int | None = None
        earlier = self._earlier()
        self.is_new = earlier is None
        if earlier is None or earlier == self._settings:
            return
        other = [k for k in self._settings | earlier if earlier.get(k) != self._settings.get(k)]
        raise InputError(
            f"{self.path}: it holds an unfinished run with another {', '.join(other)} (see {NOTE} "
            "in it); give the same options to continue it, or remove the folder"
        )

    def _earlier(self) -> dict[str, object] | None:
        try:
            found = json.loads((self.path / NOTE).read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def check_space(self, need: int) -> None:
        """Raise `ExportError` unless so many bytes are free for the folder and the output."""
        free = free_bytes(self.path)
        if self.is_new and free < need:
            raise ExportError(
                f"--out {self.out}: {need / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are "
                "free; free some space or choose another disk"
            )

    def __enter__(self) -> WorkFolder:
        with together():
            if PartialState().is_main_process:
                self._make()
        return self

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.path, os.O_RDONLY)
            if self.is_new:
                part = self.path / f"{NOTE}.part"
                part.write_text(json.dumps(self._settings, indent=2), encoding="utf-8")
                part.rename(self.path / NOTE)
        except OSError as error:
            raise InputError(f"--out {self.out}: {error.strerror}; choose another folder") from None
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"--out {self.out}: another process is at work on it; wait for it, or choose "
                "another folder"
            ) from None
        except OSError:
            pass  # some file systems have no locks

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def remove(self) -> None:
        """Delete the folder: the run is done."""
        shutil.rmtree(self.path, ignore_errors=True)
