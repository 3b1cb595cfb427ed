"""Whether a search survives what happens to workers and databases, and with what result.

    python -m benchmarks.storage.reliability --out benchmarks/storage    # 25 minutes
    python -m benchmarks.storage.reliability --out benchmarks/storage --only postgresql

Workers run `optlayers worker` and replay the demo's landscape; they are forked from one process, so
that dozens fit on two cores. A random one is killed (kill -9) every few seconds and another takes
its place: 8 workers on SQLite, 32 on PostgreSQL, of which a quarter run in process namespaces of
their own (where this is root) and so are known to the others by their heartbeats alone, as on
another machine. In other runs the database server or all space on the disk is unavailable in
mid-search for 20 s, and layer sets raise, hang, give NaN, or end the process. Of each run it is
checked that

- the study finishes, every worker ends by itself, and no trial is left running or waiting;
- no question of a layer set was evaluated twice, save for work in flight when a worker ended;
- every stored answer is the recorded one, and the leaderboard equals that of a study in which one
  undisturbed worker evaluated the same sets.

Columns are kept in `reliability.json` beside the table, so that one can be measured again alone.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.lib import program
from benchmarks.storage.reliability_checks import check
from benchmarks.storage.reliability_runs import Figures, Run, a_folder, place_of, search

BAD_SETS = {"3": "hang", "6": "raise", "9": "nan", "12": "exit"}

LABELS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "workers": lambda c: c["workers"],
    "of these known by heartbeats alone": lambda c: c["elsewhere"] or "",
    "seconds": lambda c: f"{c['seconds']:.0f}",
    "workers killed (kill -9)": lambda c: c["kills"] or "",
    "unavailable for seconds": lambda c: f"{c['outage']:.0f}" if c["outage"] else "",
    "workers that said they wait": lambda c: c["waited"] or "",
    "seconds from its return to the next result": lambda c: (
        f"{c['back']:.1f}" if c["outage"] else ""
    ),
    "workers that a layer set ended": lambda c: c["ended"] or "",
    "trials": lambda c: f"{c['trials']:,}",
    "trials lost with a worker, and queued again": lambda c: c["lost"],
    "layer sets": lambda c: f"{c['layer_sets']:,}",
    "layer sets given up": lambda c: c["given_up"],
    "questions of layer sets": lambda c: f"{c['questions']:,}",
    "of these evaluated again, in flight when a worker ended": lambda c: c["again"],
    "faults found": lambda c: len(c["faults"]),
}


def planned(seconds: float, outage: float) -> dict[str, Run]:
    """The runs, by the names of their columns."""
    sets, short = max(60, int(4 * seconds)), min(90.0, seconds)
    fewer = min(300, sets)
    apart = 8 if os.getuid() == 0 else 0
    calm = Run("", 8, short, fewer, outage=outage)
    down = replace(calm, database="postgresql", unavailable="server")
    return {
        "sqlite": Run("SQLite, kills", 8, seconds, sets, 3.0),
        "postgresql": Run(
            "PostgreSQL, kills", 32, seconds, sets, 3.0, elsewhere=apart, database="postgresql"
        ),
        "postgresql-down": replace(down, name="PostgreSQL, server down"),
        "mariadb-down": replace(down, name="MariaDB, server down", database="mariadb"),
        "disk": replace(calm, name="SQLite, disk full", workers=4, unavailable="disk"),
        "bad-sets": Run("SQLite, bad layer sets", 4, short, fewer, bad_sets=BAD_SETS),
    }


def perform(run: Run) -> Figures:
    """One run from start to checks; its faults are in `run.faults`."""
    run.faults = []
    with a_folder() as folder, place_of(run, folder) as place:
        workers, figures = search(run, place, folder)
        check(run, place.direct, folder, workers, figures)
    return figures


def write(folder: Path, columns: dict[str, dict[str, Any]], order: list[str]) -> None:
    """The columns as JSON, and as a table in Markdown."""
    (folder / "reliability.json").write_text(json.dumps(columns, indent=1) + "\n", encoding="utf-8")
    shown = [columns[key] for key in order if key in columns]
    machines = sorted({column["machine"] for column in shown})
    lines = ["# Many workers, one database: what a search survives", ""]
    lines += [
        f"{program.made_by(__file__)} on {' and '.join(machines)}; "
        "the demo's landscape is replayed. A fault would be: a study that does not finish, a "
        "worker that fails, a trial left running or waiting, a question evaluated twice that "
        "was not in flight when a worker ended, an answer that is not the recorded one, a bad "
        "layer set that is not given up with its reason, or a row of the leaderboard that "
        "differs from that of one undisturbed worker on the same sets. Bad layer sets: one that"
        " hangs, one that raises, one that gives NaN, one that ends the process.",
        "",
        "| | " + " | ".join(column["name"] for column in shown) + " |",
        "|---|" + "---|" * len(shown),
    ]
    for label, show in LABELS.items():
        lines.append(f"| {label} | " + " | ".join(str(show(column)) for column in shown) + " |")
    faults = [f"- {c['name']}: {fault}" for c in shown for fault in c["faults"]]
    (folder / "reliability.md").write_text("\n".join([*lines, *faults]) + "\n", encoding="utf-8")


def main() -> None:
    """Do the runs and write the table."""
    parser = program.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="of the runs with kills")
    parser.add_argument("--outage", type=float, default=20.0)
    parser.add_argument("--only", choices=list(planned(300, 20)), action="append")
    options = parser.parse_args()
    runs = planned(options.seconds, options.outage)
    columns: dict[str, dict[str, Any]] = {}
    if options.out is not None and (options.out / "reliability.json").exists():
        columns = json.loads((options.out / "reliability.json").read_text("utf-8"))
    machine = f"{os.cpu_count()} CPU cores, Python {platform.python_version()}"
    found = False
    for key in options.only or runs:
        run = runs[key]
        figures = perform(run)
        faults = [fault.splitlines()[0] for fault in run.faults]
        columns[key] = {**asdict(run), **asdict(figures), "faults": faults, "machine": machine}
        found = found or bool(faults)
        print(run.name, figures, faults[:5], flush=True)
        if options.out is not None:
            write(options.out, columns, list(runs))
    sys.exit(found)


if __name__ == "__main__":
    main()
