"""Set-ups that take processes: commands, database servers, a browser, a small disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lib.servers import MariaDB, MissingServerError, PgBouncer, Postgres, Server
from benchmarks.lib.small_disk import small_disk
from tests.helpers.browser import launched
from tests.helpers.commands import Commands
from tests.helpers.demo_search import search, write_replay


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Runs command lines without loading torch and its like for each (`commands.Commands`)."""
    made = Commands(tmp_path_factory.mktemp("commands"))
    yield made
    made.close()


def _served(kind: Callable[[], Server]) -> Iterator[Server]:
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
def pooled_url(postgres: Postgres, postgresql_url: str) -> Iterator[str]:
    """The URL of an empty PostgreSQL database behind PgBouncer in transaction mode."""
    for server in _served(lambda: PgBouncer(postgres)):
        yield server.url(postgresql_url.rpartition("/")[2])


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


@pytest.fixture(name="small_disk")
def mounted_small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few hundred kilobytes."""
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(small_disk(tmp_path / "small", "1m"))
        except RuntimeError as error:
            pytest.skip(str(error))
        yield folder
