"""What a unit test may not do: start processes, or connect to servers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

UNIT = Path(__file__).parent
PROCESSES = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"}
# `platform` asks uname for the processor, and lm-eval asks git for its version.
ALLOWED = {"uname", "git"}

_running = ""
_start = BaseProcess.start


def _refuse(what: str) -> None:
    if _running:
        raise RuntimeError(f"{_running} {what}; move it to tests/integration")


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook that refuses what makes a test slow or dependent on its surroundings."""
    if event in PROCESSES and not ALLOWED.intersection(map(str, arguments[:1])):
        _refuse(f"starts a process ({event})")
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        _refuse(f"connects to {arguments[1]}")


def _watch_start(process: BaseProcess) -> None:
    """`BaseProcess.start`, which raises no audit event in every start method."""
    _refuse("starts a process (multiprocessing)")
    _start(process)


sys.addaudithook(_watch)
BaseProcess.start = _watch_start  # type: ignore[method-assign, assignment]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Watch each unit test with its fixtures."""
    global _running
    _running = item.nodeid if item.path.is_relative_to(UNIT) else ""
    try:
        return (yield)
    finally:
        _running = ""
