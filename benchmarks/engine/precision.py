"""Do bfloat16 and fp8 keep the order of layer sets that float32 finds?

    python -m benchmarks.engine.precision --study demo --sets 100 --out benchmarks/engine

Random layer sets of a trained pair answer the questions of a study: in float32, in bfloat16, and
with projections rounded to eight bits (`optlayers/inference/fp8.py`, the plain twin of what a
GPU runs). Shown are the answers that differ from float32, and how well scores and mean
log-probabilities of the right choice keep their order, over all sets and the better half of them.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.lib import program
from benchmarks.search.logprob import answers
from optlayers.config.study import load_study
from optlayers.evaluation.evaluator import ModelEvaluator
from optlayers.inference.fp8 import PlainEightBitOps
from optlayers.search import LayerSpace
from optlayers.trials.statistics import FloatArray, spearman

CPU = torch.device("cpu")


def row(
    name: str, found: tuple[FloatArray, FloatArray], exact: tuple[FloatArray, FloatArray]
) -> str:
    """One line of the table: answers that differ, and rank correlations."""
    score, truth = found[0].mean(1), exact[0].mean(1)
    good = truth >= np.median(truth)
    sure, surest = found[1].mean(1), exact[1].mean(1)
    best = len(truth) // 10
    both = set(np.argsort(-score)[:best]) & set(np.argsort(-truth)[:best])
    cells = [
        name,
        f"{100 * float((found[0] != exact[0]).mean()):.2f} %",
        f"{100 * float(np.abs(score - truth).max()):.1f}",
        f"{spearman(score, truth):.4f}",
        f"{spearman(score[good], truth[good]):.4f}",
        f"{spearman(sure, surest):.4f}",
        f"{len(both)} of {best}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, print, save."""
    parser = program.parser(__doc__)
    parser.add_argument("--study", default="demo")
    parser.add_argument("--sets", type=int, default=100)
    args = parser.parse_args()
    definition = load_study(args.study)
    rng = np.random.default_rng(0)
    exact = ModelEvaluator(definition, CPU, torch.float32)
    budget = definition.layers
    space = LayerSpace(n_layers=exact.n_layers, min_layers=budget.min, max_layers=budget.max)
    drawn = [space.random(rng, space.random_size(rng)) for _ in range(args.sets)]
    sets = list(dict.fromkeys(drawn))
    # One form of the layers for all three, so that nothing but the precision differs.
    exact.engine.packed = True
    truth = answers(exact, sets)
    exact.stack._ops = PlainEightBitOps()
    eight = answers(exact, sets)
    half = ModelEvaluator(definition, CPU, torch.bfloat16)
    half.engine.packed = True
    lines = [
        "# Precision",
        "",
        f"{program.made_by(__file__)}: {len(sets)} random layer sets of study "
        f"`{args.study}`, {truth[0].shape[1]} questions each, against float32.",
        "",
        "| | answers that differ | largest difference of a score, points "
        "| rank correlation of scores | of the better half | of log-probabilities "
        "| best tenth in common |",
        "|---|---|---|---|---|---|---|",
        row("bfloat16", answers(half, sets), truth),
        row("fp8", eight, truth),
    ]
    program.save(args.out, "precision.md", "\n".join(lines))


if __name__ == "__main__":
    main()
