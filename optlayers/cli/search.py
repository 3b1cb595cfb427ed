"""`optlayers search`: runs a whole study with local workers."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from optlayers.cli.app import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    StorageOption,
    StudyOption,
    app,
    at_least,
    say,
)
from optlayers.storage import DEFAULT_URL

POLL_SECONDS = 0.5


@app.command()
def search(
    study: StudyOption = "demo",
    workers: Annotated[
        int | None,
        typer.Option("--workers", help="Local workers (default: one a GPU, or one a core)."),
    ] = None,
    storage: StorageOption = DEFAULT_URL,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    json: JsonOption = False,
) -> None:
    """Search the best layer sets of a study; run the same command again to go on."""
    from optlayers.leaderboard import status
    from optlayers.storage import open_study, storage_errors
    from optlayers.study import load_study

    if workers is not None:
        at_least("--workers", workers, 1)
    definition = load_study(study)
    opened = open_study(storage, definition)
    with storage_errors(storage):
        if status(definition, opened).phase == "done":
            say(f"study {definition.name!r} is finished")
        else:
            _run(definition, opened, study, storage, workers, device, dtype)
        _summary(definition, opened, study, storage, json)


def _run(
    definition: Any,
    opened: Any,
    study: str,
    storage: str,
    workers: int | None,
    device: str | None,
    dtype: str | None,
) -> None:
    from optlayers.cli.live import LiveView
    from optlayers.cli.pool import Pool
    from optlayers.leaderboard import status

    devices = [device] if device else _devices()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    on_cpu = devices[0].startswith("cpu")
    count = workers or (min(cores or 1, 8) if on_cpu else len(devices))
    threads = max(1, (cores or 1) // count)
    commands = []
    for number in range(count):
        where = devices[number % len(devices)]
        command = ["worker", "--study", study, "--index", str(number), "--attached"]
        command += ["--threads", str(threads), "--device", where]
        command += ["--dtype", dtype] if dtype else []
        commands.append((command, where))
    # By the environment, so that a password is in no process list.
    pool = Pool(commands, {"OPTLAYERS_STORAGE": storage, "OMP_NUM_THREADS": str(threads)})

    def stop(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        pool.start()
        with LiveView() as view:
            while pool.watch():
                while pool.notes:
                    view.note(pool.notes.popleft())
                view.show(status(definition, opened), [(s.device, s.state) for s in pool.slots])
                time.sleep(POLL_SECONDS)
    finally:
        pool.stop()


def _devices() -> list[str]:
    """The visible GPUs, or the CPU. torch is asked only where there may be a GPU."""
    if not Path("/dev/nvidiactl").exists() and not Path("/proc/driver/nvidia").exists():
        return ["cpu"]
    import torch

    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]


def _summary(definition: Any, opened: Any, study: str, storage: str, json: bool) -> None:
    """Leaderboard, best of each size, and what to do next."""
    from optlayers import holdout
    from optlayers.cli.tables import console, held_out_table, print_json, rows_table
    from optlayers.leaderboard import best_of_size, leaderboard
    from optlayers.patience import mask_password
    from optlayers.search import keys, read_records

    records = read_records(opened.get_trials(deepcopy=False))
    rows = leaderboard(definition, records)
    if json:
        print_json([row.to_dict() for row in rows])
        return
    out = console()
    out.print(rows_table(rows[:10], f"{definition.name}: the best of {len(rows)} layer sets"))
    out.print(rows_table(best_of_size(rows), "the best of each size"))
    held = holdout.results(opened, definition, records, opened.user_attrs.get(keys.N_LAYERS, 0))
    if held:
        out.print(held_out_table(held))
    option = f" --study {study}" if study != "demo" else ""
    option += f" --storage {mask_password(storage)}" if storage != DEFAULT_URL else ""
    out.print("Next:", markup=False)
    out.print(f"  optlayers export-best{option} --top 5 --out exports", markup=False)
    out.print(f"  optlayers leaderboard{option} --top 50", markup=False)
    out.print(f"  optuna-dashboard {mask_password(storage)}", markup=False)
