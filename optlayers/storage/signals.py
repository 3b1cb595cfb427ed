"""Interrupts: what a signal raises waits for the end of the storage call that it comes into.

Raised between two statements of a transaction, it would leave a connection behind that still locks
the database: the process, which is to give its claims back, would then wait for itself. And what
was raised inside an extension module may be lost there; the next storage call raises it again.
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
    due: BaseException | None = None


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def ending_signals() -> list[signal.Signals]:
    """What tells a process to end: SIGTERM, Ctrl-C, and the hang-up of its terminal.

    Where `nohup` has made the process ignore the hang-up, it is none of them.
    """
    ending = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        ending.append(signal.SIGHUP)
    return ending


def interrupt(error: BaseException) -> None:
    """Raise an exception in a signal handler: now, or at the end of the storage call under way."""
    _MainThread.due = error
    if not _MainThread.depth:
        raise error


def raise_interrupt() -> None:
    """Raise what a signal has raised, unless it is being handled already."""
    due = _MainThread.due
    if due is None or not _in_main_thread():
        return
    handled = sys.exc_info()[1]
    while handled is not None:
        if handled is due:
            return
        handled = handled.__context__
    raise due


@contextlib.contextmanager
def in_one_piece() -> Iterator[None]:
    """What is done in here is not broken into by `interrupt`."""
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
    """What is interrupted in here is over at its end; Ctrl-C is an `interrupt` too.

    Where the program has a handler of its own for Ctrl-C, that stays.
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
        _MainThread.due = None
        if plain:
            signal.signal(signal.SIGINT, signal.default_int_handler)
