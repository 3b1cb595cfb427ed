"""Set-ups that take processes: commands, database servers, a browser, a small disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lib.servers import MariaDB, MissingServerError, Postgres, Server
from tests.helpers.browser import launched
from tests.helpers.commands import Commands
from tests.helpers.demo_search import search, write_replay


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Runs command lines without loading torch and its like for each (`commands.Commands`)."""
    made = Commands(tmp_path_factory.mktemp("commands"))
    yield made
    made.close()


def _served(kind: type[Server]) -> Iterator[Server]:
    try:
        server = kind()
    except MissingServerError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A running PostgreSQL; skipped, with what to install, where it is missing (fails in CI)."""
    yield from _served(Postgres)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Server]:
    """A running MariaDB; skipped, with what to install, where it is missing (fails in CI)."""
    yield from _served(MariaDB)


@pytest.fixture
def postgresql_url(postgres: Server) -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def mysql_url(mariadb: Server) -> Iterator[str]:
    """The URL of an empty MariaDB database."""
    with mariadb.database() as url:
        yield url


@pytest.fixture(scope="session")
def chrome() -> Iterator[Any]:
    """Chromium, driven by Playwright; skipped where it is missing (fails in CI)."""
    yield from launched()


@pytest.fixture(scope="session")
def demo_searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished search of the demo in `optuna.db`, its answers replayed."""
    folder = tmp_path_factory.mktemp("demo")
    write_replay(folder)
    searching = search(folder, "--workers", "1")
    searching.communicate(timeout=120)
    assert searching.returncode == 0, (folder / "err").read_text()
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few hundred kilobytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=False
    )
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here; run the tests as root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
