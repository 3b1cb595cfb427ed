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

from optlayers.cli.app import (
    MOST_WORKERS,
    DtypeOption,
    JsonOption,
    MaxMinutesOption,
    PrunerOption,
    ReplayOption,
    SamplerOption,
    StorageOption,
    StudyOption,
    app,
    at_least,
    called,
    say,
)
from optlayers.cli.dashboard import write_notes
from optlayers.cli.leaving import end_within
from optlayers.cli.pool import STOP_SECONDS, Pool, Slot
from optlayers.errors import InputError
from optlayers.storage.connect import DEFAULT_URL
from optlayers.storage.signals import ending_signals, interrupt

# Those of `evaluator.pick_dtype`, which is not loaded here.
DTYPES = ("float32", "bfloat16", "float16")
POLL_SECONDS = 0.5
LEAVE_SECONDS = 3.0


@app.command()
def search(
    study: StudyOption = "demo",
    workers: Annotated[
        int | None,
        typer.Option("--workers", help="Local workers (default: one a GPU, or one a core)."),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option("--devices", "--device", help="cpu, or GPUs: 0,1 (default: all there are)."),
    ] = None,
    per_device: Annotated[
        int | None, typer.Option("--per-device", help="Workers on each GPU (default: one).")
    ] = None,
    storage: StorageOption = DEFAULT_URL,
    dtype: DtypeOption = None,
    max_minutes: MaxMinutesOption = None,
    sampler: SamplerOption = None,
    pruner: PrunerOption = None,
    replay: ReplayOption = None,
    json: JsonOption = False,
) -> None:
    """Search the best layer sets of a study; run the same command again to go on."""
    from optlayers.cli.placement import cores, parse_devices, places, visible_gpus
    from optlayers.config.study import load_study
    from optlayers.storage.connect import open_study, storage_errors
    from optlayers.workers.heldout import is_done

    for name, value in (("--workers", workers), ("--per-device", per_device)):
        if value is not None:
            at_least(name, value, 1, MOST_WORKERS)
    if max_minutes is not None:
        at_least("--max-minutes", max_minutes, 0)
    if dtype not in (None, *DTYPES):
        raise InputError(f"--dtype is {dtype!r}; it is one of {', '.join(DTYPES)}")
    definition = load_study(study).exploring(sampler, pruner)
    gpus = [] if devices == "cpu" else visible_gpus()
    placed = places(parse_devices(devices, gpus), workers, per_device, cores())
    opened = open_study(storage, definition, say=say)
    with storage_errors(storage):
        if is_done(opened, definition):
            say(f"study {definition.name!r} is finished")
        else:
            if replay is None:
                _bring(definition)
            slots, first = [], _first_index(storage)
            for number, place in enumerate(placed):
                command = ["worker", "--study", study, "--index", str(first + number), "--attached"]
                command += ["--threads", str(place.threads), "--device", place.device]
                command += ["--dtype", dtype] if dtype else []
                command += ["--replay", replay] if replay else []
                command += ["--sampler", sampler] if sampler else []
                command += ["--pruner", pruner] if pruner else []
                slots.append(Slot(command, place.device, place.threads))
            # By the environment, so that a password is in no process list.
            _run(
                Pool(slots, {"OPTLAYERS_STORAGE": storage}, _seconds(max_minutes)),
                definition,
                opened,
            )
            if not is_done(opened, definition):
                say("time is up; run the same command again to go on")
        _summary(definition, opened, study, storage, json)
        if replay is None:
            # Last of all, since the dashboard's library takes seconds to load.
            write_notes(opened, definition, storage)


def _bring(definition: Any) -> None:
    """Fetch models of a hub, once, before workers ask for them; raises `ModelError` if it fails."""
    models = [spec.model for spec in (definition.base, *definition.donor_specs)]
    if all(Path(definition.resolve(model)).is_dir() for model in models):
        return  # the workers look at them, who have loaded what it takes
    from optlayers.checkpoints.parents import open_parents
    from optlayers.checkpoints.tokenizer import tokenizer_folder

    say("looking for the models")
    open_parents(definition)
    tokenizer_folder(definition)


def _first_index(storage: str) -> int:
    """The index of the first worker here: searches on several machines must not propose alike."""
    from optlayers.storage.heartbeat import host_name

    if storage.startswith("sqlite"):
        return 0  # one machine: the same seeds every time
    return zlib.crc32(host_name().encode()) % 1_000_000 * 1_000


def _seconds(minutes: float | None) -> float | None:
    return None if minutes is None else 60 * minutes


def _run(pool: Pool, definition: Any, opened: Any) -> None:
    """Keep the workers running and show how they do, until all have finished."""
    from optlayers.cli.live import LiveView
    from optlayers.storage.retry import tell_waits

    def stop(_number: int, _frame: Any) -> None:
        interrupt(KeyboardInterrupt())

    # Ctrl-C too: a shell starts what it runs in the background with that signal ignored.
    for name in ending_signals():
        signal.signal(name, stop)
    end_within(STOP_SECONDS + 2 * LEAVE_SECONDS)
    try:
        pool.start()
        with LiveView() as view:
            tell_waits(opened._storage, view.note)
            while pool.watch(_told(opened)):
                while pool.notes:
                    view.note(pool.notes.popleft())
                view.follow(definition, opened, [slot.shown for slot in pool.slots])
                time.sleep(POLL_SECONDS)
    finally:
        tell_waits(opened._storage, say)
        pool.stop()
        _return_lost(opened)


def _return_lost(opened: Any) -> None:
    """Queue what workers of this machine held that were killed; a later search would too."""
    from optlayers.storage.retry import limit_patience
    from optlayers.trials import keys
    from optlayers.trials.records import donors_in
    from optlayers.workers.queue import Claims

    limit_patience(opened._storage, LEAVE_SECONDS)
    with contextlib.suppress(Exception):
        attrs = opened.user_attrs
        claims = Claims(opened, attrs[keys.N_LAYERS], "", donors_in(attrs))
        claims.reap(opened.get_trials(deepcopy=False))


def _told(opened: Any) -> set[int]:
    """The process numbers of this machine's workers that have told a result."""
    from optlayers.storage.heartbeat import process_of
    from optlayers.trials import keys

    trials = opened.get_trials(deepcopy=False)
    workers = {t.user_attrs.get(keys.WORKER, "") for t in trials if keys.SCORE in t.user_attrs}
    return {process_of(worker) for worker in workers} - {0}


def _summary(definition: Any, opened: Any, study: str, storage: str, json: bool) -> None:
    """Leaderboard, best of each size, and what to do next."""
    from optlayers.cli.tables import NOTHING_YET, console, held_out_table, print_json, rows_table
    from optlayers.results.view import StudyView
    from optlayers.storage.redact import mask_password

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
    out.print(rows_table(view.compare(rows[:11])[:10], title, out.width, view.cost))
    out.print(view.selection_note(bool(view.held_out)), markup=False)
    if view.cost.table is None:
        out.print(rows_table(view.best_of_size, "the best of each size"))
    else:
        title = f"the best for what they cost: {view.cost.title}"
        out.print(rows_table(view.front, title, cost=view.cost))
    if view.held_out:
        out.print(held_out_table(view.held_out, definition.donor_names))
    where = f" --storage {quote(mask_password(storage))}" if storage != DEFAULT_URL else ""
    option = (f" --study {quote(study)}" if study != "demo" else "") + where
    print("Next:")
    for command in (
        f"export-best{option} --top 5 --out exports",
        f"leaderboard{option} --top 50",
        f"report{option} --out report.html",
        f"dashboard{where}",
    ):
        # Not by the console, which would break a long line that is to be copied.
        print(f"  {called()} {command}")
