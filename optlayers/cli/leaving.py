"""Leaving: a process that was told to end does, whatever its main thread waits for."""

from __future__ import annotations

import os
import signal
import threading
import time

EXIT_CODE = 130


def end_within(seconds: float) -> None:
    """From the next signal that Python handles, the process has so long to end by itself.

    A handler runs in the main thread, and only once a call into a database or a device returns. A
    signal number arrives at the wakeup file at once, where another thread reads it.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(reader, seconds), daemon=True).start()


def _wait(reader: int, seconds: float) -> None:
    os.read(reader, 1)
    time.sleep(seconds)
    os._exit(EXIT_CODE)
