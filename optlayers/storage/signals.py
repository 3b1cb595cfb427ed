"""Interrupts: delays an exception of a signal handler until the end of a storage call.

Raised inside a transaction, it would leave a connection that still locks the database, and the
process, which must return its claims, would wait for itself. Raised inside an extension module, it
may be lost; the next storage call raises it again.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any


class _MainThread:
    """How deep in storage calls the main thread is, where signals arrive, and what they raised."""

    depth = 0
    pending: BaseException | None = None


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def ending_signals() -> list[signal.Signals]:
    """The signals that end a process: SIGTERM, SIGINT, and SIGHUP unless `nohup` ignores it."""
    ending = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        ending.append(signal.SIGHUP)
    return ending


def interrupt(error: BaseException) -> None:
    """Raise an exception in a signal handler: now, or at the end of the current storage call."""
    _MainThread.pending = error
    if not _MainThread.depth:
        raise error


def raise_interrupt() -> None:
    """Raise the exception of the last signal, unless it is being handled already."""
    pending = _MainThread.pending
    if pending is None or not _in_main_thread():
        return
    handled = sys.exc_info()[1]
    while handled is not None:
        if handled is pending:
            return
        handled = handled.__context__
    raise pending


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Delay interrupts until the end of the block."""
    if not _in_main_thread():
        yield
        return
    if not _MainThread.depth:
        raise_interrupt()
    _MainThread.depth += 1
    try:
        yield
    finally:
        _MainThread.depth -= 1
        if not _MainThread.depth:
            raise_interrupt()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Make Ctrl-C an interrupt, and forget interrupts at the end of the block.

    The program's own handler for Ctrl-C is kept.
    """
    if not _in_main_thread():
        yield
        return

    def stop(_number: int, _frame: Any) -> None:
        interrupt(KeyboardInterrupt())

    plain = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if plain:
        signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        _MainThread.pending = None
        if plain:
            signal.signal(signal.SIGINT, signal.default_int_handler)
