"""`optlayers worker`: joins a study from another terminal or machine."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from optlayers.cli import options as opt
from optlayers.cli.app import app, say
from optlayers.cli.exit import INTERRUPTED, exit_within
from optlayers.config.study import load_study
from optlayers.errors import Stopped, TimeUp
from optlayers.storage.connect import open_study, storage_errors
from optlayers.storage.signals import ending_signals, interrupt

# From a signal to the end of the process; batch systems kill later.
END_SECONDS = 12.0


@app.command()
def worker(
    study: opt.Study = "demo",
    storage: opt.Storage = opt.DEFAULT_URL,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    index: Annotated[
        int | None,
        typer.Option(
            callback=opt.number(0), help="Seed of the sampler here (default: by process)."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(callback=opt.number(1, 1000), help="CPU threads.")
    ] = None,
    cohort: Annotated[
        int | None, typer.Option(callback=opt.number(1), help="Layer sets evaluated together.")
    ] = None,
    max_minutes: opt.MaxMinutes = None,
    hang_minutes: Annotated[
        float | None,
        typer.Option(
            callback=opt.number(0.01),
            help="Abort an evaluation after this long (default: 20 times the slowest).",
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Also wait for a database that is down at the start.")
    ] = False,
    sampler: opt.Sampler = None,
    pruner: opt.Pruner = None,
    replay: opt.Replay = None,
    attached: Annotated[bool, typer.Option("--attached", hidden=True)] = False,
) -> None:
    """Join a study until it is done; any number of workers may."""
    end = None if max_minutes is None else time.monotonic() + 60 * max_minutes

    def work() -> bool:
        from optlayers.search import pruner_for
        from optlayers.storage.heartbeat import process_name

        definition = load_study(study).exploring(sampler, pruner)
        # Opened before the slow part, so that faults of the database show at once.
        # A study that `search` has made, and that is gone, is not made again.
        opened = open_study(
            storage, definition, create=not attached, say=say, wait=wait or attached
        )
        if replay is None:
            evaluator, where = _evaluator(definition, device, dtype, threads)
        else:
            from optlayers.testing import ReplayEvaluator

            evaluator, where = ReplayEvaluator.load(Path(replay)), "replay"
        opened.pruner = pruner_for(definition, evaluator.order.n_fast)

        from optlayers.search.planner import COHORT
        from optlayers.workers.worker import Worker

        say("working")
        with storage_errors(storage), _display(definition, opened, attached):
            done = Worker(
                definition,
                opened,
                evaluator,
                device=where,
                index=zlib.crc32(process_name().encode()) if index is None else index,
                cohort=cohort or COHORT,
                max_seconds=None if end is None else end - time.monotonic(),
                hang_seconds=None if hang_minutes is None else 60 * hang_minutes,
                say=say,
            ).run()
            if not attached and replay is None:
                # `search` does it for its own workers.
                from optlayers.cli.dashboard import write_note

                write_note(opened, definition, storage)
        return done

    try:
        # Inside the try, since it may be time to stop at once.
        with stopped_by_signals(max_minutes):
            if attached:
                threading.Thread(target=_leave_with_parent, daemon=True).start()
            done = work()
    except TimeUp:
        done = False
    except Stopped:
        say("stopped; unfinished layer sets are back in the queue")
        sys.exit(INTERRUPTED)  # typer.Exit would add that it was interrupted
    say("the study is done" if done else "time is up; the study continues with other workers")


@contextlib.contextmanager
def stopped_by_signals(max_minutes: float | None) -> Iterator[None]:
    """Raise `Stopped` on a signal that ends the process, `TimeUp` after `max_minutes`."""
    handled = [*ending_signals(), signal.SIGALRM]

    def stop(received: int, _frame: Any) -> None:
        # A second signal must not interrupt the return of the layer sets to the queue.
        for name in handled:
            signal.signal(name, signal.SIG_IGN)
        interrupt(TimeUp() if received == signal.SIGALRM else Stopped(received))

    for name in handled:
        signal.signal(name, stop)
    exit_within(END_SECONDS)
    try:
        if max_minutes is not None:
            # Also in the middle of a cohort: the time limit of a batch system does not wait.
            signal.setitimer(signal.ITIMER_REAL, max(1e-3, 60 * max_minutes))
        yield
    finally:
        # Python restores the default handlers as it ends, and that of the timer kills.
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)


def _leave_with_parent() -> None:
    """Stop when the process that started this one is gone and its end of the pipe has closed."""
    # Not through sys.stdin: a thread that holds its lock would block the interpreter's exit.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _display(
    definition: Any, opened: Any, attached: bool
) -> contextlib.AbstractContextManager[Any]:
    """The live display around a worker that was started by hand."""
    if attached:
        return contextlib.nullcontext()
    from optlayers.cli.live import Watcher

    return Watcher(definition, opened)


def _evaluator(
    definition: Any, device: str | None, dtype: str | None, threads: int | None
) -> tuple[Any, str]:
    """The evaluator of the study's models, and the name of its device."""
    import torch

    from optlayers.evaluation.evaluator import ModelEvaluator
    from optlayers.inference.device import pick_device, pick_dtype

    if threads is not None:
        torch.set_num_threads(threads)
    where = pick_device(device)
    return ModelEvaluator(definition, where, pick_dtype(dtype, where), say), str(where)
