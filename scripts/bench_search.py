"""Which search finds the best layers with the least work: landscapes with known truth.

    python scripts/bench_search.py --seeds 20 --out benchmarks
    python scripts/bench_search.py --landscapes mine.npz --searches optlayers "beam of 3"

Cost is counted in question-layer passes, in units of one layer set on all questions, without and
with shared prefixes of layers. A run ends when a set within half a point of the true best has been
evaluated on all questions, or after 600 units. Median over seeds, with the quartiles.

A landscape is `demo`, a family of `scripts/search_landscapes.py`, or a file: the answers of every
layer set of one pair up to some size, each question right or wrong, with the subjects and the
order of the questions (`Landscape` in `optlayers/evaluation/landscape.py`; docs/search.md lists its
arrays). `python scripts/make_demo_landscape.py --study FILE.yaml --out FILE.npz` records one.
"""

from __future__ import annotations

import argparse
import contextlib
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

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from search_competitors import SEARCHES, EndedError, Oracle  # noqa: E402
from search_landscapes import FAMILIES, Known, recorded, synthetic  # noqa: E402

from optlayers.errors import InputError  # noqa: E402

NEAR, BUDGET = 0.005, 600.0
GRID = (10, 20, 40, 60, 80, 120, 160, 240, 400, 600)


def landscape(name: str, seed: int) -> Known:
    """The demo's, one from a file, or a synthetic one of that seed."""
    if name == "demo":
        return recorded(ROOT / "studies" / "demo" / "landscape.npz")
    return recorded(Path(name)) if name.endswith(".npz") else synthetic(name, seed)


def title(name: str) -> str:
    """What tables call a landscape: of a file its name alone."""
    return Path(name).stem if name.endswith(".npz") else name


def check(names: list[str]) -> None:
    """Raise `InputError` for a landscape that is not there, or not whole."""
    for name in names:
        if name.endswith(".npz"):
            recorded(Path(name))
        elif name not in ("demo", *FAMILIES):
            raise InputError(
                f"landscape {name!r}: expected demo, {', '.join(FAMILIES)} or a file *.npz"
            )
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
    lines = ["| search | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for search in searches:
        cells = []
        for name in names:
            mine = [r for r in rows if r["search"] == search and r["landscape"] == name]
            costs = [r[key] if r["found"] else np.inf for r in mine]
            missed = sum(not r["found"] for r in mine)
            cells.append(quartiles(costs) + (f", {missed} missed" if missed else ""))
        lines.append(f"| {search} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture(rows: list[dict[str, Any]], names: list[str], searches: list[str], path: Path) -> None:
    """Median regret against cost, quartiles shaded."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "optlayers", "svg.fonttype": "none", "font.size": 9})
    figure, axes = plt.subplots(
        2, -(-len(names) // 2), figsize=(11, 6), layout="constrained", squeeze=False
    )
    for axis, name in zip(axes.flat, names, strict=False):
        for number, search in enumerate(searches):
            mine = [r for r in rows if r["search"] == search and r["landscape"] == name]
            regrets = np.array([r["regrets"] for r in mine])
            color, width = f"C{number}", 2.2 if search == "optlayers" else 1.0
            axis.plot(GRID, np.median(regrets, axis=0), color=color, linewidth=width, label=search)
            if search == "optlayers":
                low, high = np.quantile(regrets, [0.25, 0.75], axis=0)
                axis.fill_between(GRID, low, high, color=color, alpha=0.15, linewidth=0)
        axis.set(title=name, xscale="log", xlabel="cost, full evaluations", ylim=(0, 15))
        axis.set_ylabel("points below the best")
        axis.spines[["top", "right"]].set_visible(False)
    axes.flat[0].legend(frameon=False, fontsize=7)
    for axis in list(axes.flat)[len(names) :]:
        axis.set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--landscapes", nargs="*", default=["demo", *FAMILIES])
    parser.add_argument("--searches", nargs="*", default=list(SEARCHES), choices=list(SEARCHES))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    try:
        check(args.landscapes)
    except InputError as error:
        parser.error(str(error))
    jobs = [(n, s, args.searches) for s in range(args.seeds) for n in args.landscapes]
    rows: list[dict[str, Any]] = []
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        for done, part in enumerate(pool.imap_unordered(run, jobs), 1):
            rows += part
            print(f"\r{done} of {len(jobs)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    args.landscapes = [title(name) for name in args.landscapes]
    file = None if args.out is None else args.out / "search.json"
    if file is not None and file.is_file():
        # What was not run again stays.
        made = {(r["landscape"], r["search"]) for r in rows}
        old = json.loads(file.read_text(encoding="utf-8"))
        rows += [r for r in old if (r["landscape"], r["search"]) not in made]
        args.searches = [s for s in SEARCHES if any(r["search"] == s for r in rows)]
        args.landscapes = list(dict.fromkeys([*args.landscapes, *(r["landscape"] for r in rows)]))
    costs = table(rows, args.landscapes, args.searches, "cost")
    shared = table(rows, args.landscapes, args.searches, "shared")
    text = (
        "# Searches\n\nMade by `scripts/bench_search.py`: median cost (quartiles) over "
        f"{args.seeds} seeds to evaluate a set within half a point of the true best on all "
        f"questions, in units of one set on all questions, at most {BUDGET:.0f}.\n\n"
        f"Without shared prefixes of layers:\n\n{costs}\n\nWith them:\n\n{shared}\n"
    )
    print(text)
    seconds = {s: np.mean([r["seconds"] for r in rows if r["search"] == s]) for s in args.searches}
    print({s: round(float(v), 1) for s, v in seconds.items()})
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "search.md").write_text(
            text + "\n![Regret against cost](search.svg)\n", encoding="utf-8"
        )
        (args.out / "search.json").write_text(json.dumps(rows), encoding="utf-8")
        picture(rows, args.landscapes, args.searches, args.out / "search.svg")


if __name__ == "__main__":
    main()
