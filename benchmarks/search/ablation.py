"""What each part of the genetic search brings: the search with one part off, on known landscapes.

    python -m benchmarks.search.ablation --jobs 14 --seeds 20 --minutes 9 --out ablation.jsonl
    python -m benchmarks.search.ablation --jobs 2 --seeds 3 --variants all "no pairs" --out a.jsonl
    python -m benchmarks.search.ablation --seeds 0 --out a.jsonl.gz   # the table of recorded runs

Cost is counted as in `benchmarks/search/search.py`. Each finished run appends one line of JSON to
the output file, in which a later call finds what is done already. Runs are ordered by seed, so
that a call that its time limit ends has run every variant on nearly the same seeds.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gzip
import json
import multiprocessing
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import optuna

from benchmarks.lib.competitors import SEARCHES, EndedError, Oracle
from benchmarks.lib.landscapes import FAMILIES, Known
from benchmarks.search.search import BUDGET, NEAR, RECORDED, landscape
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search import genetic, history, initial, operators, patterns, planner, sampler
from optlayers.search.genetic import GeneticSearch
from optlayers.search.individual import Individual

GROUP = 6  # variants that one job runs on one landscape


def plain_mutation(
    layers: LayerSet,
    space: LayerSpace,
    known: Sequence[patterns.Pattern],
    rng: np.random.Generator,
    guide_prob: float,
) -> LayerSet:
    """A pattern in place of random other layers, or a random neighbour."""
    if rng.random() < guide_prob:
        planted = operators.plant_pattern(layers, space, known, rng)
        if planted is not None:
            return planted
    near = space.neighbours(layers)
    return near[int(rng.integers(len(near)))] if near else layers


def fittest(
    individuals: Sequence[Individual], *, population_size: int, n_elites: int
) -> list[Individual]:
    """The fittest, whatever their size."""
    return sorted(individuals, key=lambda i: -i.fitness)[:population_size]


def even_odds(size: int, space: LayerSpace) -> dict[str, float]:
    """The same probability for every mutation that the budget allows."""
    kinds = [operators.SWAP] if 0 < size < space.n_layers else []
    kinds += [operators.ADD] if size < space.max_layers else []
    kinds += [operators.REMOVE] if size > space.min_layers else []
    return {kind: 1.0 / len(kinds) for kind in kinds}


class Isolated(LayerSpace):
    """A space whose sets have no neighbours, so that there is no hill climbing."""

    def neighbours(self, layers: LayerSet) -> list[LayerSet]:
        """None."""
        return []


@dataclass(frozen=True)
class Variant:
    """What is switched off: settings of the search, and (owner, name, value) to patch."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    patches: Sequence[tuple[Any, str, Any]] = ()
    climbs: bool = True

    def __add__(self, other: Variant) -> Variant:
        """Both."""
        return Variant(
            {**self.settings, **other.settings},
            (*self.patches, *other.patches),
            self.climbs and other.climbs,
        )

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Apply it to searches that start inside the context."""

        def make(**options: Any) -> GeneticSearch:
            if not self.climbs:
                space = options["space"]
                options["space"] = Isolated(
                    n_layers=space.n_layers,
                    min_layers=space.min_layers,
                    max_layers=space.max_layers,
                )
            return GeneticSearch(**{**options, **self.settings})

        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(sampler, "GeneticSearch", make))
            for owner, name, value in self.patches:
                stack.enter_context(mock.patch.object(owner, name, value, create=True))
            yield


def patch(owner: Any, name: str, value: Any) -> Variant:
    """One patch."""
    return Variant(patches=((owner, name, value),))


def _never(*_: Any, **__: Any) -> None:
    """Nothing."""


def _zero(*_: Any) -> float:
    return 0.0


def _random_set(
    slot: int, rng: np.random.Generator, *, space: LayerSpace, seen: Any, **_: Any
) -> LayerSet | None:
    return space.random_unseen(rng, seen)


NO_PAIRS = patch(genetic, "pair_share", _zero)
NO_BIAS = patch(history, "prefix_biases", lambda _: {})
NO_SHRINKAGE = patch(history, "estimates", lambda scores, _: scores)
NO_PATTERNS = Variant({"guide_prob": 0.0})
NO_SYNERGY = patch(patterns, "_synergies", lambda *_: {})
NO_CROSSOVER = Variant({"crossover_prob": 0.0})
NO_OFFSPRING = patch(GeneticSearch, "_child", _never)
NO_INITIAL = patch(genetic, "initial_set", _never)
FITTEST = patch(genetic, "select_parents", fittest)
NO_TOURNAMENT = Variant({"tournament_size": 1})
# The planner sets it on itself; this one keeps what it is.
NO_PAUSING = patch(planner._Planner, "pausing", property(lambda _: False, lambda *_: None))
EVEN_SIZES = patch(operators, "mutation_odds", even_odds) + patch(
    initial, "favoured_size", lambda rng, space: space.random_size(rng)
)
PLAIN_MUTATION = patch(genetic, "mutate", plain_mutation)
SIMPLEST = PLAIN_MUTATION + NO_CROSSOVER + FITTEST + NO_TOURNAMENT

VARIANTS: dict[str, Variant] = {
    "all": Variant(),
    "no pairs": NO_PAIRS,
    "no prefix bias": NO_BIAS,
    "no shrinkage": NO_SHRINKAGE,
    "no patterns": NO_PATTERNS,
    "patterns without synergy": NO_SYNERGY,
    "no crossover": NO_CROSSOVER,
    "plain mutation": PLAIN_MUTATION,
    "no mutation": patch(genetic, "mutate", lambda layers, *_: layers),
    "no offspring": NO_OFFSPRING,
    "no initial sets": NO_INITIAL,
    "random initial sets": patch(genetic, "initial_set", _random_set),
    "fittest parents": FITTEST,
    "no tournament": NO_TOURNAMENT,
    "all sizes alike": EVEN_SIZES,
    "no climbing": Variant(climbs=False),
    "no pausing": NO_PAUSING,
    "no model": Variant({"model": False}),
    "climbing and pairs": NO_OFFSPRING + NO_INITIAL,
    "climbing": NO_OFFSPRING + NO_INITIAL + NO_PAIRS,
    "simplest": SIMPLEST,
    "simplest, no initial sets": SIMPLEST + NO_INITIAL,
    "simplest, no shrinkage": SIMPLEST + NO_SHRINKAGE,
}


@functools.lru_cache(maxsize=1)
def _known(name: str, seed: int) -> Known:
    return landscape(name, seed)


def run(job: tuple[str, int, tuple[str, ...], Path, float]) -> int:
    """Some variants on one landscape with one seed, as far as the time goes; how many ran."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    name, seed, variants, out, end = job
    for done, variant in enumerate(variants):
        if time.time() > end:
            return done
        known = _known(name, seed)
        oracle = Oracle(known, known.best - NEAR, BUDGET)
        began = time.perf_counter()
        with VARIANTS[variant].applied(), contextlib.suppress(EndedError):
            SEARCHES["optlayers"](oracle, np.random.default_rng([seed, zlib.crc32(b"optlayers")]))
        row = {
            "landscape": name,
            "seed": seed,
            "variant": variant,
            "found": oracle.best >= oracle.target,
            "cost": round(oracle.cost, 3),
            "shared": round(oracle.shared, 3),
            "regret": round(known.best - oracle.best, 5),
            "sets": len(oracle.seen),
            "seconds": round(time.perf_counter() - began, 2),
        }
        # One short write to a file that is appended to: lines of processes do not mix.
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    return len(variants)


def recorded(path: Path) -> list[dict[str, Any]]:
    """The runs of a file."""
    if not path.is_file():
        return []
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def runtime(rows: Sequence[Mapping[str, Any]], key: str = "cost") -> float:
    """Cost of all runs divided by the number of those that found it: mean cost of a find.

    The average runtime of Hansen et al. 2021 (COCO): a run that misses is restarted. Infinite if no
    run found it.
    """
    found = sum(r["found"] for r in rows)
    return float(sum(r[key] for r in rows)) / found if found else float("inf")


def ratio(
    rows: Sequence[Mapping[str, Any]], variant: str, names: Sequence[str], key: str = "cost"
) -> tuple[float, float, float]:
    """Runtime of a variant divided by that of `all`: geometric mean over landscapes, 90 % interval.

    The interval is from 1,000 bootstrap samples of the seeds that both have run.
    """
    by: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        by.setdefault((row["landscape"], row["variant"]), {})[row["seed"]] = row
    pairs: list[tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]] = []
    for name in names:
        mine, theirs = by.get((name, variant), {}), by.get((name, "all"), {})
        seeds = sorted(mine.keys() & theirs.keys())
        if seeds:
            pairs.append(([mine[s] for s in seeds], [theirs[s] for s in seeds]))

    def mean(pick: Callable[[int], Sequence[int]]) -> float:
        logs = []
        for mine, theirs in pairs:
            chosen = pick(len(mine))
            a, b = (runtime([part[i] for i in chosen], key) for part in (mine, theirs))
            logs.append(np.log(a / b) if np.isfinite(b) else np.nan)
        return float(np.exp(np.mean(logs)))

    if not pairs:
        return (float("nan"),) * 3
    rng = np.random.default_rng(0)
    samples = np.array([mean(lambda n: rng.integers(n, size=n).tolist()) for _ in range(1000)])
    samples = samples[~np.isnan(samples)]
    low, high = np.quantile(samples, [0.05, 0.95], method="nearest")
    return mean(lambda n: range(n)), float(low), float(high)


def table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Markdown: for each variant its cost on each landscape and by that of all on."""
    there = dict.fromkeys(r["variant"] for r in rows)
    # Those of an earlier search last.
    variants = [v for v in VARIANTS if v in there] + [v for v in there if v not in VARIANTS]
    lines = [
        "| variant | " + " | ".join(names) + " | of all on | with shared prefixes | missed |",
        "|---" * (len(names) + 4) + "|",
    ]
    for variant in variants:
        mine = [r for r in rows if r["variant"] == variant]
        cells = []
        for name in names:
            here = [r for r in mine if r["landscape"] == name]
            missed = sum(not r["found"] for r in here)
            cells.append(f"{runtime(here):.1f}" + (f", {missed} of {len(here)}" if missed else ""))
        for key in ("cost", "shared"):
            middle, low, high = ratio(rows, variant, names, key)
            cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})" if variant != "all" else "1")
        cells.append(f"{sum(not r['found'] for r in mine)} of {len(mine)}")
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--landscapes", nargs="*", default=[*RECORDED, *FAMILIES])
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end by then")
    parser.add_argument("--out", type=Path, required=True, help="a file of JSON lines to add to")
    args = parser.parse_args()
    began = time.time()
    end = began + 60 * args.minutes
    done = {(r["landscape"], r["seed"], r["variant"]) for r in recorded(args.out)}
    jobs = []
    for seed in range(args.seeds):
        # The longest first, so that the last of a seed do not wait for one.
        for name in sorted(args.landscapes, key=lambda n: n != "synergistic"):
            left = tuple(v for v in args.variants if (name, seed, v) not in done)
            # No more groups than needed, of one size.
            count = -(-len(left) // GROUP)
            jobs += [(name, seed, left[i::count], args.out, end) for i in range(count)]
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    ran, last = 0, began
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        results = pool.imap_unordered(run, jobs)
        for number in range(1, len(jobs) + 1):
            try:
                # A run takes up to half a minute more; what is not done then is left.
                ran += results.next(max(0.0, end - time.time()) + 20 if end < np.inf else None)
            except multiprocessing.TimeoutError:
                break
            if time.time() - last > 30:
                last = time.time()
                print(f"{number} of {len(jobs)} jobs, {ran} runs, {last - began:.0f} s", flush=True)
        pool.terminate()
    rows = recorded(args.out)
    print(f"{len(rows)} runs, {time.time() - began:.0f} s\n\n{table(rows, args.landscapes)}")


if __name__ == "__main__":
    main()
