"""`optlayers worker`: joins a study from another terminal or machine."""

from __future__ import annotations

import os
import signal
import threading
from typing import Annotated, Any

import typer

from optlayers.cli.app import DeviceOption, DtypeOption, StorageOption, StudyOption, app, at_least
from optlayers.cli.app import say as say_line
from optlayers.storage import DEFAULT_URL


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
    max_minutes: Annotated[
        float | None, typer.Option("--max-minutes", help="Leave after so many minutes.")
    ] = None,
    attached: Annotated[bool, typer.Option("--attached", hidden=True)] = False,
) -> None:
    """Work on a study until it is done; any number of workers may."""
    for name, value in (("--threads", threads), ("--cohort", cohort)):
        if value is not None:
            at_least(name, value, 1)
    if index is not None:
        at_least("--index", index, 0)
    if max_minutes is not None:
        at_least("--max-minutes", max_minutes, 0)
    _stop_on_signals()
    if attached:
        threading.Thread(target=_leave_with_parent, daemon=True).start()
    from optlayers.worker import Stopped

    try:
        done = _work(study, storage, device, dtype, index, threads, cohort, max_minutes)
    except Stopped:
        say_line("stopped; the layer sets it had taken are back in the queue")
        raise typer.Exit(130) from None
    say_line("the study is done" if done else "time is up; the study goes on with other workers")


def _stop_on_signals() -> None:
    from optlayers.worker import Stopped

    def stop(number: int, _frame: Any) -> None:
        # A second signal must not break into the return of the claims.
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, signal.SIG_IGN)
        raise Stopped(number)

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, stop)


def _leave_with_parent() -> None:
    """End when the process that started this one is gone: its end of the pipe closes."""
    # Not through sys.stdin: a thread that holds its lock would break the interpreter's exit.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _work(
    study: str,
    storage: str,
    device: str | None,
    dtype: str | None,
    index: int | None,
    threads: int | None,
    cohort: int | None,
    max_minutes: float | None,
) -> bool:
    from optlayers.search import RacingPruner
    from optlayers.storage import open_study, storage_errors
    from optlayers.study import load_study

    definition = load_study(study)
    # The database is asked before the slow part, so that its faults show at once.
    pruner = RacingPruner(top_k=1, alpha=0.1)
    opened = open_study(storage, definition, pruner=pruner)

    import torch

    from optlayers.evaluation.evaluator import ModelEvaluator, pick_device, pick_dtype
    from optlayers.worker import COHORT, Worker

    if threads is not None:
        torch.set_num_threads(threads)
    where = pick_device(device)
    evaluator = ModelEvaluator(definition, where, pick_dtype(dtype, where), say_line)
    say_line("working")
    with storage_errors(storage):
        return Worker(
            definition,
            opened,
            evaluator,
            device=str(where),
            index=os.getpid() if index is None else index,
            cohort=cohort or COHORT,
            max_seconds=None if max_minutes is None else 60 * max_minutes,
            say=say_line,
        ).run()
