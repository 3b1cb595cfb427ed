"""Command lines of optlayers, run in forks of one process (`command_server.py`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.helpers.paths import ROOT


class Done(NamedTuple):
    """How a command ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


class Commands:
    """One process that has loaded everything, and a fork of it for each command.

    folder: where output waits, and what the libraries cache.
    """

    def __init__(self, folder: Path) -> None:
        self._files = {name: str(folder / name) for name in ("output", "errors")}
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "OPTLAYERS"))}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.command_server"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**kept, "HF_HOME": str(folder / "cache")},
        )

    def run(self, folder: Path, arguments: list[str], **environment: str) -> Done:
        """Run `optlayers` with arguments in a folder."""
        return self._ask(folder, environment, arguments=arguments)

    def module(self, folder: Path, name: str, arguments: list[str]) -> Done:
        """Run `python -m NAME` with arguments in a folder."""
        return self._ask(folder, {}, module=name, arguments=arguments)

    def python(self, folder: Path, code: str, **environment: str) -> Done:
        """Run a program in a folder."""
        return self._ask(folder, environment, code=code)

    def _ask(self, folder: Path, environment: dict[str, str], **task: Any) -> Done:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        task |= {"folder": str(folder), "environment": environment, **self._files}
        print(json.dumps(task), file=self._server.stdin, flush=True)
        code = int(self._server.stdout.readline())
        out, err = (Path(file).read_text("utf-8", "replace") for file in self._files.values())
        return Done(code, out, err)

    def close(self) -> None:
        """End the process."""
        self._server.kill()  # it has nothing to save, and its libraries take long to leave
        self._server.communicate()
