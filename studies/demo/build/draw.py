"""Draw what the demo's layers do, from its recorded landscape, into `docs/demo.svg`.

    python -m studies.demo.build.draw

Needs matplotlib (part of the extra `dev`).
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

from optlayers.layerset import LayerSet
from optlayers.testing import Landscape
from optlayers.trials.statistics import StratifiedScore

ROOT = Path(__file__).resolve().parents[3]

BLUE, GRAY, ORANGE = "#2f6fb0", "#9aa5b1", "#d9822b"


def main() -> None:
    """Draw and save."""
    mpl.rcParams.update({"svg.hashsalt": "optlayers", "font.size": 10, "svg.fonttype": "none"})
    landscape = Landscape.load(ROOT / "studies" / "demo" / "landscape.npz")
    scores = landscape.scores()
    scorer = StratifiedScore(strata=landscape.order.subject, weights=landscape.order.weights)
    best = max(scores, key=lambda s: (scores[s], -len(s)))
    layers = range(landscape.n_layers)
    base = scores[LayerSet(())]

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.4), layout="constrained")
    single = [scores[LayerSet.of(i)] for i in layers]
    loss = [
        scores[best] - scores[LayerSet(tuple(set(best) - {i}))] if i in best else 0.0
        for i in layers
    ]
    width = 0.4
    left.bar(
        np.arange(len(single)) - width / 2,
        [100 * (s - base) for s in single],
        width,
        color=GRAY,
        label="gain of the layer alone",
    )
    left.bar(
        np.arange(len(single)) + width / 2,
        [100 * x for x in loss],
        width,
        color=BLUE,
        label=f"loss without it, in [{best}]",
    )
    left.axhline(0, color="black", linewidth=0.6)
    left.set(xlabel="layer from the donor", ylabel="points of accuracy", xticks=list(layers))
    left.set_title("What a layer brings alone, and in the best set", fontsize=10, loc="left")
    left.legend(frameon=False, fontsize=9)

    sizes = range(5)
    top = [max((s for s in scores if len(s) == k), key=lambda s: scores[s]) for k in sizes]
    intervals = [scorer.interval(landscape.answers[landscape.index[s]]) for s in top]
    values = np.array([[100 * i.score, 100 * i.ci_low, 100 * i.ci_high] for i in intervals])
    right.errorbar(
        sizes,
        values[:, 0],
        yerr=[values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]],
        marker="o",
        color=BLUE,
        capsize=3,
    )
    for k, layers_of in zip(sizes, top, strict=True):
        right.annotate(
            str(layers_of) or "base",
            (k, values[k, 0]),
            textcoords="offset points",
            xytext=(8, -14),
            fontsize=9,
        )
    right.axhline(100, color=ORANGE, linewidth=1, linestyle="--")
    right.annotate("donor", (0, 100), textcoords="offset points", xytext=(0, -12), color=ORANGE)
    right.set(
        xlabel="number of donor layers",
        ylabel="accuracy, %",
        xticks=list(sizes),
        xlim=(-0.3, 5.0),
        ylim=(15, 106),
    )
    right.set_title("The best set of each size, 95 % intervals", fontsize=10, loc="left")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(ROOT / "docs" / "demo.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
