"""Interrupts: what a signal raises waits for the end of the storage call that it comes into.

Raised between two statements of a transaction, it would leave a connection behind that still locks
the database: the process, which is to give its claims back, would then wait for itself.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class _MainThread:
    """How deep in storage calls the main thread is, where signals arrive, and what waits there."""

    depth = 0
    waiting: BaseException | None = None


def interrupt(error: BaseException) -> None:
    """Raise an exception in a signal handler: now, or at the end of the storage call under way."""
    if _MainThread.depth:
        _MainThread.waiting = error
    else:
        raise error


@contextlib.contextmanager
def in_one_piece() -> Iterator[None]:
    """What is done in here is not broken into by `interrupt`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _MainThread.depth += 1
    try:
        yield
    finally:
        _MainThread.depth -= 1
        if not _MainThread.depth and _MainThread.waiting is not None:
            error, _MainThread.waiting = _MainThread.waiting, None
            raise error


@contextlib.contextmanager
def gentle_ctrl_c() -> Iterator[None]:
    """In here Ctrl-C is an `interrupt`, unless the program has a handler of its own."""
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def stop(_number: int, _frame: Any) -> None:
        interrupt(KeyboardInterrupt())

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
