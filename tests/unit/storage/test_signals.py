"""A signal in the middle of a transaction: the worker must not lock itself out of the database."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from sqlalchemy import event

from optlayers.errors import Stopped
from optlayers.storage.retry import RetryingStorage
from optlayers.storage.signals import interrupt, interruptible, without_interrupts
from optlayers.workers.worker import Worker
from tests.helpers.replay import worker_in


@pytest.fixture(autouse=True)
def kept_handlers() -> Iterator[None]:
    kept = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
    yield
    for name, handler in kept.items():
        signal.signal(name, handler)


def signal_when_a_score_is_written(worker: Worker, number: int) -> None:
    """Send this process a signal in the middle of the transaction that ends its first trials."""
    storage = worker.study._storage
    assert isinstance(storage, RetryingStorage)
    sent: list[int] = []

    def look(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        if not sent and sql.startswith("INSERT INTO trial_values"):
            sent.append(number)
            os.kill(os.getpid(), number)

    event.listen(storage.engine, "after_cursor_execute", look)


@pytest.mark.parametrize(("number", "error"), [("SIGTERM", Stopped), ("SIGINT", KeyboardInterrupt)])
def test_a_signal_in_a_transaction_returns_the_claims_at_once(
    tmp_path: Path, number: str, error: type[BaseException]
) -> None:
    def stop(_number: int, _frame: Any) -> None:
        interrupt(Stopped())

    signal.signal(signal.SIGTERM, stop)  # Ctrl-C is left to the worker
    worker = worker_in(tmp_path)
    signal_when_a_score_is_written(worker, signal.Signals[number])
    began = time.monotonic()
    with pytest.raises(error):
        worker.run()
    assert time.monotonic() - began < 15, "it waited for a lock of its own"
    trials = worker.study.get_trials(deepcopy=False)
    assert trials
    assert TrialState.RUNNING not in {trial.state for trial in trials}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_waits_for_the_outermost_end() -> None:
    done = []

    def nested() -> None:
        with interruptible(), without_interrupts():
            with without_interrupts():
                interrupt(Stopped())
                done.append("inner")
            done.append("outer")

    with pytest.raises(Stopped):
        nested()
    assert done == ["inner", "outer"]


def test_a_call_in_another_thread_holds_no_interrupt_up() -> None:
    entered, leave = threading.Event(), threading.Event()

    def elsewhere() -> None:
        with without_interrupts():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    assert entered.wait(10)
    with pytest.raises(Stopped), interruptible():
        interrupt(Stopped())
    leave.set()
    thread.join()


def test_an_interrupt_that_was_lost_is_raised_by_the_next_call_and_then_no_more() -> None:
    def lose() -> None:
        # As extension modules do that look whether something is an array, or a number.
        with contextlib.suppress(BaseException):
            interrupt(Stopped())

    def work() -> None:
        with interruptible():
            lose()
            try:
                with without_interrupts():
                    done.append("more work")
            finally:
                with without_interrupts():
                    done.append("returned")

    done: list[str] = []
    with pytest.raises(Stopped):
        work()
    assert done == ["returned"]
    with without_interrupts():
        done.append("later")
