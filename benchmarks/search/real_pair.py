"""What the layers of a real pair do: SmolLM2-135M and the same with discrete Mamba-2 mixers.

    python -m benchmarks.search.real_pair --out benchmarks/search

From the recorded landscape (`examples/smollm2_mamba/make_landscape.py`): which layers matter, how
far single layers add up, which pairs are worth more than their parts, and what four ways to choose
layers find at each size. `searched` is this package's search on the recorded answers, 20 seeds;
`lowest KL` adds the layers one by one whose single replacement is nearest to the donor's logits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import optuna

from benchmarks.lib import program
from benchmarks.lib.competitors import study_on
from benchmarks.lib.landscapes import FloatArray, recorded
from benchmarks.lib.program import REAL_LANDSCAPE
from optlayers.layerset import LayerSet
from optlayers.search.rungs import Rungs
from optlayers.search.surrogate import indicators
from optlayers.testing import Landscape, Simulation
from optlayers.trials.statistics import spearman

SEEDS, SIZES = 20, (1, 2, 3)
BLUE, GRAY, ORANGE, GREEN = "#2f6fb0", "#9aa5b1", "#d9822b", "#3a8f5c"


class Pair:
    """The recorded landscape with its scores and divergences."""

    def __init__(self) -> None:
        folder = REAL_LANDSCAPE.parent
        self.lookup = Landscape.load(REAL_LANDSCAPE)
        self.scores = self.lookup.scores()
        self.common = Landscape.load(folder / "common_sense.npz").scores()
        self.n = self.lookup.n_layers
        self.base, self.donor = LayerSet(()), LayerSet(tuple(range(self.n)))
        with np.load(folder / "kl.npz") as data:
            rows = zip(data["masks"], data["nats"], strict=True)
            self.kl = {
                LayerSet(tuple(i for i in range(self.n) if int(mask) >> i & 1)): float(nats)
                for mask, nats in rows
            }
        self.gain = np.array([self.scores[LayerSet((i,))] for i in range(self.n)])
        self.gain -= self.scores[self.base]
        self.by_kl = sorted(range(self.n), key=lambda i: self.kl[LayerSet((i,))])

    def of_size(self, size: int) -> list[LayerSet]:
        """The recorded sets of a size, best first."""
        return sorted((s for s in self.scores if len(s) == size), key=lambda s: -self.scores[s])

    def pair_gain(self, i: int, j: int) -> float:
        """What two layers bring together beyond what each brings alone."""
        both = self.scores[LayerSet((i, j))] - self.scores[self.base]
        return float(both - self.gain[i] - self.gain[j])

    def greedy(self) -> list[LayerSet]:
        """The best set of each size that contains the one before."""
        chosen, found = LayerSet(()), []
        for _ in range(4):
            larger = [LayerSet(tuple(sorted({*chosen, i}))) for i in range(self.n)]
            known = [s for s in larger if len(s) > len(chosen) and s in self.scores]
            chosen = max(known, key=lambda s: self.scores[s])
            found.append(chosen)
        return found

    def lowest_kl(self, size: int) -> LayerSet:
        """The layers that are nearest to the donor one by one."""
        return LayerSet(tuple(sorted(self.by_kl[:size])))

    def explained(self, pairs: bool) -> float:
        """Share of the variance of all sets of up to three layers that a linear model explains."""
        sets = [s for s in self.scores if len(s) <= max(SIZES)]
        held = indicators(sets, self.n)
        columns = [np.ones(len(sets)), *held.T]
        if pairs:
            columns += [
                held[:, i] * held[:, j] for i, j in itertools.combinations(range(self.n), 2)
            ]
        x, y = np.stack(columns, axis=1), np.array([self.scores[s] for s in sets])
        rest = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
        return float(1.0 - rest.var() / y.var())


def searched(size: int) -> tuple[list[float], list[float]]:
    """What 20 searches of up to `size` layers find: scores, and costs in sets on all questions."""
    known = recorded(REAL_LANDSCAPE, size)
    questions = Rungs(known.n_fast, known.n_full, known.strata, known.weights)
    found, costs = [], []
    for seed in range(SEEDS):
        study = Simulation(
            study_on(known, seed),
            known.n_layers,
            questions,
            known.of,
            logs=known.logs,
            fast_weights=known.fast_weights,
        )
        records = study.run(seed=seed)
        full = [r for r in records if r.questions == known.n_full]
        found.append(max(float(r.score or 0.0) for r in full))
        costs.append(sum(r.evaluated for r in records) / known.n_full)
    return found, costs


def quantiles(values: Sequence[float] | FloatArray) -> str:
    """The median with the 5th and the 95th percentile, in percent."""
    low, middle, high = (100.0 * q for q in np.quantile(np.array(values), [0.05, 0.5, 0.95]))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def tables(pair: Pair, results: dict[int, tuple[list[float], list[float]]]) -> str:
    """The page."""
    scores, common, greedy = pair.scores, pair.common, pair.greedy()
    rank = {i: place + 1 for place, i in enumerate(pair.by_kl)}

    def percent(layers: LayerSet) -> str:
        return f"{100 * scores[layers]:.1f} [{layers}]"

    rows = []
    for size in (*SIZES, 4):
        best = pair.of_size(size)
        all_of_them = math.comb(pair.n, size)
        found = results.get(size)
        kl = pair.lowest_kl(size)
        rows.append(
            [
                size,
                percent(best[0]) + ("" if len(best) == all_of_them else f", of {len(best)} sets"),
                quantiles(found[0]) if found else "",
                f"{np.median(found[1]):.0f}" if found else "",
                percent(greedy[size - 1]),
                percent(kl) if kl in scores else f"[{kl}], not recorded",
                quantiles([scores[s] for s in best]) if len(best) == all_of_them else "",
            ]
        )
    heads = ["layers", "best recorded", "searched", "its cost", "greedy addition", "lowest KL"]
    by_size = program.table([*heads, "all sets"], rows)
    singles = program.table(
        ["layer", "lookup, points", "common sense, points", "KL to the donor", "rank by KL"],
        [
            [
                i,
                f"{100 * pair.gain[i]:+.1f}",
                f"{100 * (common[LayerSet((i,))] - common[pair.base]):+.1f}",
                f"{pair.kl[LayerSet((i,))]:.3f}",
                rank[i],
            ]
            for i in np.argsort(-pair.gain)[:8].tolist()
        ],
    )
    together = sorted(itertools.combinations(range(pair.n), 2), key=lambda ij: -pair.pair_gain(*ij))
    pairs = program.table(
        ["pair", "together, points", "beyond its parts"],
        [
            [
                f"{i},{j}",
                f"{100 * (scores[LayerSet((i, j))] - scores[pair.base]):+.1f}",
                f"{100 * pair.pair_gain(i, j):+.1f}",
            ]
            for i, j in [*together[:5], *together[-2:]]
        ],
    )
    three = pair.of_size(3)
    order = spearman(
        np.array([sum(pair.gain[i] for i in s) for s in three]),
        np.array([scores[s] for s in three]),
    )
    of_kl = spearman(
        np.array([-pair.kl[LayerSet((i,))] for i in range(pair.n)]), np.asarray(pair.gain)
    )
    best_two = pair.of_size(2)[0]
    two_by_kl = min((s for s in pair.kl if len(s) == 2), key=lambda s: pair.kl[s])
    return f"""# A real pair: SmolLM2-135M-Instruct, and the same with discrete Mamba-2 mixers

{program.made_by(__file__)} from `examples/smollm2_mamba/*.npz`: {len(scores):,} layer sets, each on
{pair.lookup.order.n_full} questions of in-context lookup and copying (made up; chance 25 %), on 480
questions of ARC-Easy and PIQA, and, up to pairs, on 4,096 tokens of text sampled from the donor.
Before any distillation of the hybrids. Percent; in brackets of `searched` and `all sets` the 5th
and 95th percentile.

| | lookup | common sense | KL to the donor |
|---|---|---|---|
| base | {100 * scores[pair.base]:.1f} | {100 * common[pair.base]:.1f} | {pair.kl[pair.base]:.3f} |
| donor | {100 * scores[pair.donor]:.1f} | {100 * common[pair.donor]:.1f} | 0 |

{by_size}

Cost is in layer sets on all questions, without what shared layers save; greedy addition costs
{pair.n}, {2 * pair.n - 1}, {3 * pair.n - 3} and {4 * pair.n - 6}. "Lowest KL" of two layers chosen
together, [{two_by_kl}], has a lookup of {100 * scores[two_by_kl]:.1f} %; the best two are
[{best_two}], with a KL of {pair.kl[best_two]:.3f} against {pair.kl[two_by_kl]:.3f}.

## Which layers matter

{singles}

The rank correlation of lookup and KL over the {pair.n} single layers is {of_kl:+.2f}: a choice by
KL takes other layers. The layer that brings most of the lookup back is number
{rank[int(np.argmax(pair.gain))]} of {pair.n} by KL.

## How additive it is

A sum over layers explains {100 * pair.explained(False):.0f} % of the variance of all sets of up to
three layers, layers and pairs {100 * pair.explained(True):.0f} %. Sums of single gains rank the
sets of three with a correlation of {order:.2f}.

{pairs}
"""


def picture(pair: Pair, results: dict[int, tuple[list[float], list[float]]], path: str) -> None:
    """Lookup against number of layers, and against KL for single layers."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "optlayers", "font.size": 10, "svg.fonttype": "none"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.6), layout="constrained")
    scores = pair.scores
    base, donor = 100 * scores[pair.base], 100 * scores[pair.donor]
    sizes = [0, *SIZES]
    spread = [np.array([base] * 3)] + [
        100 * np.quantile([scores[s] for s in pair.of_size(k)], [0.05, 0.5, 0.95]) for k in SIZES
    ]
    low, middle, high = np.array(spread).T
    left.fill_between(sizes, low, high, color=GRAY, alpha=0.3, linewidth=0)
    left.plot(sizes, middle, color=GRAY, label="random sets, 5 to 95 %")
    kl = [base, *(100 * scores[pair.lowest_kl(k)] for k in SIZES)]
    left.plot(sizes, kl, marker="s", color=ORANGE, label="lowest KL to the donor")
    found = [base, *(100 * float(np.median(results[k][0])) for k in SIZES)]
    best = pair.greedy()[3]
    left.plot([*sizes, 4], [*found, 100 * scores[best]], marker="o", color=BLUE, label="searched")
    for k, layers in [*((k, pair.of_size(k)[0]) for k in SIZES), (4, best)]:
        left.annotate(
            str(layers),
            (k, 100 * scores[layers]),
            textcoords="offset points",
            xytext=(-6, 6),
            ha="right",
            fontsize=9,
        )
    left.axhline(donor, color="black", linewidth=0.8, linestyle="--")
    left.annotate("donor, all 30 layers", (0, donor), textcoords="offset points", xytext=(0, 4))
    left.set(
        xlabel="layers from the donor",
        ylabel="in-context lookup, %",
        xticks=[0, 1, 2, 3, 4],
        ylim=(20, 72),
    )
    left.legend(frameon=False, fontsize=9, loc="center right", bbox_to_anchor=(1.0, 0.42))
    left.set_title("SmolLM2-135M: what a few layers bring back", fontsize=10, loc="left")
    x = [pair.kl[LayerSet((i,))] for i in range(pair.n)]
    right.scatter(x, 100 * pair.gain, color=GRAY, s=18)
    for i in (*np.argsort(-pair.gain)[:2].tolist(), pair.by_kl[0]):
        near = i == pair.by_kl[0]
        right.annotate(
            f"layer {i}, first by KL" if near else f"layer {i}",
            (x[i], 100 * pair.gain[i]),
            textcoords="offset points",
            xytext=(8, 3) if near else (-6, 5),
            ha="left" if near else "right",
            fontsize=9,
        )
    right.axvline(pair.kl[pair.base], color="black", linewidth=0.8, linestyle="--")
    right.annotate("base", (pair.kl[pair.base], 6.5), textcoords="offset points", xytext=(3, 0))
    right.set(xlabel="KL to the donor, nats per token (lower is closer)", ylabel="lookup, points")
    right.set_title("Each layer alone: KL does not see lookup", fontsize=10, loc="left")
    for axis in (left, right):
        axis.grid(color="#e4e3df", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Compute, print, save."""
    args = program.parser(__doc__).parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pair = Pair()
    results = {size: searched(size) for size in SIZES}
    program.save(args.out, "real_pair.md", tables(pair, results))
    if args.out is not None:
        picture(pair, results, str(args.out / "real_pair.svg"))


if __name__ == "__main__":
    main()
