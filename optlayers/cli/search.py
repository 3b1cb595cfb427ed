"""`optlayers search`: runs a whole study with local workers."""

from __future__ import annotations

import contextlib
import signal
import time
import zlib
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from optlayers.cli import options as opt
from optlayers.cli.app import STORAGE_ENV, app, program, say
from optlayers.cli.exit import exit_within
from optlayers.config.study import load_study
from optlayers.storage.connect import open_study, storage_errors
from optlayers.storage.redact import mask_password
from optlayers.storage.signals import ending_signals, interrupt
from optlayers.storage.store import store_of
from optlayers.trials import keys

POLL_SECONDS = 0.5
# For what is left to do in the database once the workers have stopped.
LEAVE_SECONDS = 3.0


@app.command()
def search(
    study: opt.Study = "demo",
    workers: Annotated[
        int | None,
        typer.Option(
            callback=opt.number(1, 1000),
            help="Local workers (default: one per GPU, or one per core).",
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option("--devices", "--device", help="cpu, or GPUs such as 0,1 (default: all GPUs)."),
    ] = None,
    per_device: Annotated[
        int | None,
        typer.Option(callback=opt.number(1, 1000), help="Workers on each GPU (default: 1)."),
    ] = None,
    storage: opt.Storage = opt.DEFAULT_URL,
    dtype: opt.Dtype = None,
    max_minutes: opt.MaxMinutes = None,
    sampler: opt.Sampler = None,
    pruner: opt.Pruner = None,
    replay: opt.Replay = None,
    json: opt.Json = False,
) -> None:
    """Search for the best layer sets of a study; rerun to continue."""
    from optlayers.cli.dashboard import write_note
    from optlayers.cli.local_workers import (
        Pool,
        WorkerProcess,
        allocate,
        parse_devices,
        visible_gpus,
    )
    from optlayers.workers.heldout import is_done

    definition = load_study(study).exploring(sampler, pruner)
    gpus = [] if devices == "cpu" else visible_gpus()
    allocated = allocate(parse_devices(devices, gpus), workers, per_device)
    opened = open_study(storage, definition, say=say)
    with storage_errors(storage):
        if is_done(opened, definition):
            say(f"study {definition.name!r} is done")
        else:
            if replay is None:
                _fetch_models(definition)
            options = {"--study": study, "--dtype": dtype, "--replay": replay}
            options |= {"--sampler": sampler, "--pruner": pruner}
            shared = [word for name, value in options.items() if value for word in (name, value)]
            processes = []
            for index, resources in enumerate(allocated, start=_first_index(storage)):
                own = ["--index", str(index), "--device", resources.device]
                own += ["--threads", str(resources.threads)]
                processes.append(WorkerProcess(["worker", "--attached", *shared, *own], resources))
            # The URL goes through the environment, so that no process list shows its password.
            seconds = None if max_minutes is None else 60 * max_minutes
            _run(Pool(processes, {STORAGE_ENV: storage}, seconds), definition, opened)
            if not is_done(opened, definition):
                say("time is up; run the same command again to continue")
        _print_results(definition, opened, study, storage, json)
        if replay is None:
            # Last, because the library of the dashboard takes seconds to load.
            write_note(opened, definition, storage)


def _fetch_models(definition: Any) -> None:
    """Fetch models from their hub once, before all workers ask for them."""
    models = [spec.model for spec in (definition.base, *definition.donor_specs)]
    if all(Path(definition.resolve(model)).is_dir() for model in models):
        return  # the workers check them; here that would load torch
    from optlayers.checkpoints.parents import open_parents
    from optlayers.checkpoints.tokenizer import tokenizer_folder

    say("fetching the models")
    open_parents(definition)
    tokenizer_folder(definition)


def _first_index(storage: str) -> int:
    """The index of the first worker here, different on every machine: it seeds the sampler."""
    from optlayers.storage.heartbeat import host_name

    if storage.startswith("sqlite"):
        return 0  # one machine, and the same seeds every time
    return zlib.crc32(host_name().encode()) % 1_000_000 * 1_000


def _run(pool: Any, definition: Any, opened: Any) -> None:
    """Run the workers and show the study until all have finished."""
    from optlayers.cli.live import LiveView
    from optlayers.cli.local_workers import STOP_SECONDS

    def stop(_number: int, _frame: Any) -> None:
        interrupt(KeyboardInterrupt())

    # SIGINT too: a shell starts background jobs with that signal ignored.
    for name in ending_signals():
        signal.signal(name, stop)
    exit_within(STOP_SECONDS + 2 * LEAVE_SECONDS)
    try:
        pool.start()
        with LiveView() as view:
            store_of(opened).retry.say = view.note
            while pool.watch(lambda: _with_result(opened)):
                while pool.notes:
                    view.note(pool.notes.popleft())
                view.follow(definition, opened, [worker.shown for worker in pool.workers])
                time.sleep(POLL_SECONDS)
    finally:
        store_of(opened).retry.say = say
        pool.stop()
        _requeue(opened)


def _requeue(opened: Any) -> None:
    """Queue what killed workers of this machine held; else the next search would do it."""
    from optlayers.trials.record import space_in
    from optlayers.workers.queue import TrialQueue

    store_of(opened).retry.seconds = LEAVE_SECONDS
    with contextlib.suppress(Exception):
        queue = TrialQueue(opened, space_in(opened.user_attrs), "")
        queue.reap(opened.get_trials(deepcopy=False))


def _with_result(opened: Any) -> set[int]:
    """The process numbers of this machine's workers that have stored a result."""
    from optlayers.storage.heartbeat import process_of

    # Workers that end because the study is gone are not started again.
    store_of(opened).retry.verify()
    trials = opened.get_trials(deepcopy=False)
    workers = {t.user_attrs.get(keys.WORKER, "") for t in trials if keys.SCORE in t.user_attrs}
    return {process_of(worker) for worker in workers} - {0}


def _print_results(definition: Any, opened: Any, study: str, storage: str, json: bool) -> None:
    """Print the leaderboard, the best of each size, and the commands to go on with."""
    from optlayers.cli.tables import NOTHING_YET, console, print_held_out, print_json, print_rows
    from optlayers.results.view import StudyView

    view = StudyView.of(definition, opened)
    rows = view.leaderboard
    if json:
        print_json([row.to_dict() for row in view.compare(rows)])
        return
    if not rows:
        say(NOTHING_YET)
        return
    out = console()
    title = f"{definition.name}: the best of {len(rows)} layer sets"
    print_rows(out, view.compare(rows[:11])[:10], title, view.cost)
    out.print(view.selection_note(bool(view.held_out)), markup=False)
    if view.cost.table is None:
        print_rows(out, view.best_of_size, "the best of each size")
    else:
        print_rows(out, view.front, f"the best for their cost: {view.cost.title}", view.cost)
    if view.held_out:
        print_held_out(out, view.held_out, view.donors)
    where = f" --storage {quote(mask_password(storage))}" if storage != opt.DEFAULT_URL else ""
    option = (f" --study {quote(study)}" if study != "demo" else "") + where
    print("Next:")
    for command in (
        f"export-best{option} --top 5 --out exports",
        f"leaderboard{option} --top 50",
        f"report{option} --out report.html",
        f"dashboard{where}",
    ):
        # By print, because rich would wrap a command that is to be copied.
        print(f"  {program()} {command}")
