"""A tiny pair of random models and a study over it, for the tests of every part."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.lib.servers import MariaDB, MissingServerError, Postgres, Server
from tests.helpers.commands import Commands
from tests.helpers.tiny import make_tiny_pair, make_tiny_study, parents_in

if TYPE_CHECKING:
    from optlayers.checkpoints.parents import Parents

# Tests never reach for the network: a name that is not a folder fails at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Models this small lose more to waiting threads than they win, the more so beside other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A suite that a script starts in the background is born with SIGINT ignored; tests send Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# And under `nohup` with SIGHUP ignored, as every process that it starts would be.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base/` (Llamba) and `donor/` (Llama, with the tokenizer); equal ends."""
    return make_tiny_pair(tmp_path_factory.mktemp("tiny_pair"))


@pytest.fixture(scope="session")
def tiny_parents(tiny_pair: Path) -> Parents:
    """The tiny pair, opened."""
    return parents_in(tiny_pair)


@pytest.fixture(scope="session")
def tiny_study(tiny_pair: Path) -> Path:
    """A study file over the tiny pair and the demo's tasks; takes seconds to search."""
    return make_tiny_study(tiny_pair)


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
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A replayed search that is done, with its report (`finished.Finished`)."""
    from tests.helpers.finished import make_in

    return make_in(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="session")
def chrome() -> Iterator[Any]:
    """Chromium, driven by Playwright; skipped where it is missing (fails in CI)."""
    from tests.helpers.browser import launched

    yield from launched()


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
