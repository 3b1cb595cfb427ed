"""Ends a signalled process within a time limit."""

from __future__ import annotations

import os
import signal
import threading
import time

INTERRUPTED = 130  # the exit code of a process that a signal ended


def exit_within(seconds: float) -> None:
    """End the process if it still runs so long after the next signal that Python handles.

    A signal handler runs in the main thread, and only once a call into a database or a device
    returns. The wakeup file receives the signal number at once, and another thread reads it.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_exit_after_signal, args=(reader, seconds), daemon=True).start()


def _exit_after_signal(reader: int, seconds: float) -> None:
    [number] = os.read(reader, 1)
    time.sleep(seconds)
    # The timer of `--max-minutes` ends a process as planned.
    os._exit(0 if number == signal.SIGALRM else INTERRUPTED)
