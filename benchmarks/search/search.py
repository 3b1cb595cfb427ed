"""Which search finds the best layers with the least work: landscapes with known truth.

    python -m benchmarks.search.search --seeds 20 --out benchmarks/search
    python -m benchmarks.search.search --draw --out benchmarks   # draw the recorded runs
    python -m benchmarks.search.search --landscapes mine.npz --searches optlayers "beam of 3"

Cost is counted in question-layer passes, in units of one layer set on all questions, without and
with shared prefixes of layers. A run ends when a set within half a point of the true best has been
evaluated on all questions, or after 600 units. Median over seeds, with the quartiles.

A landscape is `smollm2` (SmolLM2-135M and the same with discrete Mamba-2 mixers, all sets of up to
three layers; examples/smollm2_mamba), `demo`, a family of `benchmarks/lib/landscapes.py`, or a
file: the answers of every layer set of one pair up to some size, each question right or wrong, with
the subjects and the order of the questions (`Landscape` in `optlayers/testing/landscape.py`;
docs/search.md lists its arrays). `python -m studies.demo.build.make_landscape --study FILE.yaml
--out FILE.npz` records one.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import statistics
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from benchmarks.lib import program
from benchmarks.lib.competitors import SEARCHES, EndedError, Oracle
from benchmarks.lib.landscapes import FAMILIES, Known, recorded, synthetic
from benchmarks.lib.program import LANDSCAPE, REAL_LANDSCAPE
from optlayers.errors import InputError

NEAR, BUDGET = 0.005, 600.0
# File, and the size up to which all sets were recorded.
RECORDED = {"smollm2": (REAL_LANDSCAPE, 3), "demo": (LANDSCAPE, None)}
OURS, THEIRS = "#0072b2", "#c44e00"
GRID = (10, 20, 40, 60, 80, 120, 160, 240, 400, 600)


def landscape(name: str, seed: int) -> Known:
    """A recorded pair's, one from a file, or a synthetic one of that seed."""
    if name in RECORDED:
        return recorded(*RECORDED[name])
    return recorded(Path(name)) if name.endswith(".npz") else synthetic(name, seed)


def title(name: str) -> str:
    """What tables call a landscape: of a file its name alone."""
    return Path(name).stem if name.endswith(".npz") else name


def check(names: list[str]) -> None:
    """Raise `InputError` for a landscape that is not there, or not whole."""
    for name in names:
        if name.endswith(".npz"):
            recorded(Path(name))
        elif name not in (*RECORDED, *FAMILIES):
            known = ", ".join([*RECORDED, *FAMILIES])
            raise InputError(f"landscape {name!r}: expected {known} or a file *.npz")
    if len({title(name) for name in names}) < len(names):
        raise InputError("two landscapes have one name; rename a file")


def run(job: tuple[str, int, list[str]]) -> list[dict[str, Any]]:
    """All searches on one landscape with one seed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    name, seed, searches = job
    known = landscape(name, seed)
    rows = []
    for search in searches:
        oracle = Oracle(known, known.best - NEAR, BUDGET)
        began = time.perf_counter()
        with contextlib.suppress(EndedError):
            SEARCHES[search](oracle, np.random.default_rng([seed, zlib.crc32(search.encode())]))
        rows.append(
            {
                "landscape": title(name),
                "seed": seed,
                "search": search,
                "found": oracle.best >= oracle.target,
                "cost": oracle.cost,
                "shared": oracle.shared,
                "regret": known.best - oracle.best,
                "seconds": time.perf_counter() - began,
                "regrets": [
                    100 * (known.best - max((b for c, _, b in oracle.history if c <= g), default=0))
                    for g in GRID
                ],
            }
        )
    return rows


def quartiles(values: list[float]) -> str:
    """Median with the quartiles; `not` where they did not find it."""
    low, high = np.quantile(np.array(values), [0.25, 0.75], method="nearest")
    text = [f"{v:.0f}" if np.isfinite(v) else "not" for v in (statistics.median(values), low, high)]
    return f"{text[0]} ({text[1]} to {text[2]})"


def table(rows: list[dict[str, Any]], names: list[str], searches: list[str], key: str) -> str:
    """Markdown: cost of each search on each landscape; `not` where it was not found."""
    lines = []
    for search in searches:
        cells = []
        for name in names:
            mine = [r for r in rows if r["search"] == search and r["landscape"] == name]
            costs = [r[key] if r["found"] else np.inf for r in mine]
            missed = sum(not r["found"] for r in mine)
            cells.append(quartiles(costs) + (f", {missed} missed" if missed else ""))
        lines.append([search, *cells])
    return program.table(["search", *names], lines)


def band(axis: Any, rows: list[dict[str, Any]], color: str) -> None:
    """The median regret of one search on one landscape, its quartiles shaded."""
    regrets = np.array([r["regrets"] for r in rows])
    low, middle, high = np.quantile(regrets, [0.25, 0.5, 0.75], axis=0)
    axis.fill_between(GRID, low, high, color=color, alpha=0.25, linewidth=0)
    axis.plot(GRID, middle, color=color, linewidth=1.6)


def picture(rows: list[dict[str, Any]], names: list[str], searches: list[str], path: Path) -> None:
    """Regret against cost: a row for each competitor, a column for each landscape.

    `optlayers` is in every panel. Blue and vermilion can be told apart by all eyes.
    """
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "optlayers", "svg.fonttype": "none", "font.size": 9})
    others = [search for search in searches if search != "optlayers"] or searches
    figure, axes = plt.subplots(
        len(others),
        len(names),
        figsize=(1.2 + 1.7 * len(names), 0.9 + 1.25 * len(others)),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for (row, search), (column, name) in itertools.product(enumerate(others), enumerate(names)):
        axis = axes[row, column]
        for shown, color in ((search, THEIRS), ("optlayers", OURS)):
            mine = [r for r in rows if r["search"] == shown and r["landscape"] == name]
            if mine:
                band(axis, mine, color)
        axis.set(xscale="log", xlim=(GRID[0], GRID[-1]), ylim=(-1, 30), yticks=(0, 10, 20, 30))
        axis.set_xticks([10, 100, 600], ["10", "100", "600"])
        axis.minorticks_off()
        axis.grid(color="#e4e3df", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        if row == 0:
            axis.set_title(name, fontsize=10)
        if column == 0:
            axis.set_ylabel(search.replace(" ", "\n", 1), color=THEIRS, fontweight="bold")
    figure.suptitle(
        "Points below the true best, by what was spent: optlayers blue, the search of the row "
        "vermilion; medians and quartiles",
        fontsize=10,
    )
    figure.supxlabel("cost, one layer set on all questions = 1", fontsize=9)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run, print, save."""
    parser = program.parser(__doc__)
    parser.add_argument("--landscapes", nargs="*", default=[*RECORDED, *FAMILIES])
    parser.add_argument("--searches", nargs="*", default=list(SEARCHES), choices=list(SEARCHES))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--draw", action="store_true", help="run nothing: from OUT/search.json")
    args = parser.parse_args()
    file = None if args.out is None else args.out / "search.json"
    if args.draw and (file is None or not file.is_file()):
        parser.error("--draw needs --out with a folder that holds search.json; name it")
    try:
        check(args.landscapes)
    except InputError as error:
        parser.error(str(error))
    jobs = (
        []
        if args.draw
        else [(n, s, args.searches) for s in range(args.seeds) for n in args.landscapes]
    )
    rows: list[dict[str, Any]] = []
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        for done, part in enumerate(pool.imap_unordered(run, jobs), 1):
            rows += part
            print(f"\r{done} of {len(jobs)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    args.landscapes = [title(name) for name in args.landscapes]
    if file is not None and file.is_file():
        # What was not run again stays.
        made = {(r["landscape"], r["search"]) for r in rows}
        old = json.loads(file.read_text(encoding="utf-8"))
        rows += [r for r in old if (r["landscape"], r["search"]) not in made]
        args.searches = [s for s in SEARCHES if any(r["search"] == s for r in rows)]
        there = {r["landscape"] for r in rows}
        order = dict.fromkeys([*RECORDED, *FAMILIES, *args.landscapes, *sorted(there)])
        args.landscapes = [name for name in order if name in there]
    costs = table(rows, args.landscapes, args.searches, "cost")
    shared = table(rows, args.landscapes, args.searches, "shared")
    seeds = len({r["seed"] for r in rows})
    text = (
        f"# Searches\n\n{program.made_by(__file__)}: median cost (quartiles) over "
        f"{seeds} seeds to evaluate a set within half a point of the true best on all "
        f"questions, in units of one set on all questions, at most {BUDGET:.0f}.\n\n"
        f"Without shared prefixes of layers:\n\n{costs}\n\nWith them:\n\n{shared}\n"
    )
    if args.out is not None:
        text += "\n![Points below the best against cost, medians and quartiles](search.svg)\n"
    program.save(args.out, "search.md", text)
    seconds = {s: np.mean([r["seconds"] for r in rows if r["search"] == s]) for s in args.searches}
    print({s: round(float(v), 1) for s, v in seconds.items()})
    if args.out is not None:
        (args.out / "search.json").write_text(json.dumps(rows), encoding="utf-8")
        picture(rows, args.landscapes, args.searches, args.out / "search.svg")


if __name__ == "__main__":
    main()
