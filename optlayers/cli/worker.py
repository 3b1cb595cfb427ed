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
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from optlayers.cli.app import (
    MOST,
    MOST_THREADS,
    DeviceOption,
    DtypeOption,
    MaxMinutesOption,
    PrunerOption,
    ReplayOption,
    SamplerOption,
    StorageOption,
    StudyOption,
    app,
    at_least,
)
from optlayers.cli.app import say as say_line
from optlayers.cli.dashboard import write_notes
from optlayers.cli.leaving import EXIT_CODE, end_within
from optlayers.errors import Stopped, TimeUp
from optlayers.storage.connect import DEFAULT_URL
from optlayers.storage.signals import ending_signals, interrupt

# From a signal to the end, whatever hangs: sooner than batch systems kill.
END_SECONDS = 12.0


@app.command()
def worker(
    study: StudyOption = "demo",
    storage: StorageOption = DEFAULT_URL,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    index: Annotated[
        int | None,
        typer.Option("--index", help="Seeds what it proposes (default: by process)."),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads.")] = None,
    cohort: Annotated[
        int | None, typer.Option("--cohort", help="Layer sets evaluated together.")
    ] = None,
    max_minutes: MaxMinutesOption = None,
    hang_minutes: Annotated[
        float | None,
        typer.Option(
            "--hang-minutes",
            help="An evaluation that takes longer hangs (default: 20 times the slowest so far).",
        ),
    ] = None,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait for a database that is away at the start, too."),
    ] = False,
    sampler: SamplerOption = None,
    pruner: PrunerOption = None,
    replay: ReplayOption = None,
    attached: Annotated[bool, typer.Option("--attached", hidden=True)] = False,
) -> None:
    """Work on a study until it is done; any number of workers may."""
    for name, value, most in (("--threads", threads, MOST_THREADS), ("--cohort", cohort, MOST)):
        if value is not None:
            at_least(name, value, 1, most)
    if index is not None:
        at_least("--index", index, 0)
    if max_minutes is not None:
        at_least("--max-minutes", max_minutes, 0)
    if hang_minutes is not None:
        at_least("--hang-minutes", hang_minutes, 0.01)
    end = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    options = _Options(
        storage, device, dtype, index, threads, cohort, hang_minutes, sampler, pruner, replay, end
    )
    try:
        # In here, since it may be time to stop at once.
        _stop_on_signals(max_minutes)
        if attached:
            threading.Thread(target=_leave_with_parent, daemon=True).start()
        done = _work(study, options, wait, attached)
    except TimeUp:
        done = False
    except Stopped:
        say_line("stopped; the layer sets it had taken are back in the queue")
        sys.exit(EXIT_CODE)  # not by `typer.Exit`, which would say that somebody interrupted it
    say_line("the study is done" if done else "time is up; the study goes on with other workers")


def _stop_on_signals(max_minutes: float | None) -> None:
    heeded = [*ending_signals(), signal.SIGALRM]

    def stop(number: int, _frame: Any) -> None:
        # A second signal must not break into the return of the claims.
        for name in heeded:
            signal.signal(name, signal.SIG_IGN)
        interrupt(TimeUp() if number == signal.SIGALRM else Stopped(number))

    for name in heeded:
        signal.signal(name, stop)
    end_within(END_SECONDS)
    if max_minutes is not None:
        # In the middle of a cohort too: a batch system's limit waits for none.
        signal.setitimer(signal.ITIMER_REAL, max(1e-3, 60 * max_minutes))


def _leave_with_parent() -> None:
    """End when the process that started this one is gone: its end of the pipe closes."""
    # Not through sys.stdin: a thread that holds its lock would break the interpreter's exit.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


@dataclass(frozen=True)
class _Options:
    storage: str
    device: str | None
    dtype: str | None
    index: int | None
    threads: int | None
    cohort: int | None
    hang_minutes: float | None
    sampler: str | None
    pruner: str | None
    replay: str | None
    end: float | None


def _work(study: str, options: _Options, wait: bool, attached: bool) -> bool:
    from optlayers.config.study import load_study
    from optlayers.search import pruner_for
    from optlayers.storage.connect import open_study, storage_errors
    from optlayers.storage.heartbeat import process_name

    definition = load_study(study).exploring(options.sampler, options.pruner)
    # The database is asked before the slow part, so that its faults show at once.
    opened = open_study(options.storage, definition, say=say_line, wait=wait or attached)
    evaluator, device = _evaluator(definition, options)
    opened.pruner = pruner_for(definition, evaluator.order.n_fast)

    from optlayers.search.planner import COHORT
    from optlayers.workers.worker import Worker

    index = zlib.crc32(process_name().encode()) if options.index is None else options.index
    say_line("working")
    with storage_errors(options.storage), _shown(definition, opened, attached):
        done = Worker(
            definition,
            opened,
            evaluator,
            device=device,
            index=index,
            cohort=options.cohort or COHORT,
            max_seconds=None if options.end is None else options.end - time.monotonic(),
            hang_seconds=None if options.hang_minutes is None else 60 * options.hang_minutes,
            say=say_line,
        ).run()
        if not attached and options.replay is None:
            # What `search` does for its own workers.
            write_notes(opened, definition, options.storage)
    return done


@contextlib.contextmanager
def _shown(definition: Any, opened: Any, attached: bool) -> Iterator[None]:
    """The live view around a worker that was started by hand."""
    if attached:
        yield
        return
    from optlayers.cli.live import Watcher

    watcher = Watcher(definition, opened)
    watcher.start()
    try:
        yield
    finally:
        watcher.close()


def _evaluator(definition: Any, options: _Options) -> tuple[Any, str]:
    """What answers the questions, and the device that it runs on."""
    if options.replay is not None:
        from optlayers.testing import ReplayEvaluator

        return ReplayEvaluator.load(Path(options.replay)), "replay"
    import torch

    from optlayers.evaluation.evaluator import ModelEvaluator
    from optlayers.inference.device import pick_device, pick_dtype

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    where = pick_device(options.device)
    dtype = pick_dtype(options.dtype, where)
    return ModelEvaluator(definition, where, dtype, say_line), str(where)
