"""`optlayers` in a process forked from one that has imported it: dozens cost little to start.

A forked process runs the same command line, and dies by `kill -9`, as one that was started anew; it
only shares the memory and the seconds that the imports take.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "__main__",
        "benchmarks.lib.forked_worker",
        *(f"optlayers.{name}" for name in ("cli.worker", "cli.live", "testing", "workers.worker")),
        *("alembic.command", "psycopg", "pymysql", "sqlalchemy.dialects.sqlite"),
        *("sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.dialects.mysql.pymysql"),
    ]
)


def _run(folder: Path, arguments: list[str], env: dict[str, str], err: Path) -> None:
    os.chdir(folder)
    os.environ.update(env)
    sys.argv = ["optlayers", *arguments]
    target = os.open(err, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(target, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    from optlayers.cli.app import main

    main()


class Forked:
    """One run of `optlayers`, with the methods of `subprocess.Popen` that are needed."""

    def __init__(self, folder: Path, arguments: list[str], env: dict[str, str], err: Path) -> None:
        self._process: ForkServerProcess = CONTEXT.Process(
            target=_run, args=(folder, arguments, env, err)
        )
        self._process.start()

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()

    def wait(self) -> int | None:
        """Wait for its end; the exit code."""
        self._process.join()
        return self._process.exitcode
