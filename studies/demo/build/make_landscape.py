"""Record the truth of study `demo`: the answers of every layer set of up to four layers.

    python -m studies.demo.build.make_landscape
    python -m studies.demo.build.make_landscape --study mine.yaml --out mine.npz

Runs optlayers' own engine on the CPU in float32 over all 2,517 sets (about 15 minutes on two
cores), writes `studies/demo/landscape.npz`, and prints the best sets, what greedy addition
finds, and how many sets come near the best. So it does for another study of one donor whose
questions are right or wrong: every set of up to `layers.max`, for `benchmarks/search/search.py`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from optlayers.config.study import load_study
from optlayers.errors import EvaluationError, InputError
from optlayers.evaluation.evaluator import ModelEvaluator
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.testing import Landscape

ROOT = Path(__file__).resolve().parents[3]

OUT = ROOT / "studies" / "demo" / "landscape.npz"


def _part(job: tuple[str, int, int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The answers [sets, stop - start] of one slice of the questions."""
    study, start, stop = job
    torch.set_num_threads(1)
    definition = load_study(study)
    evaluator = ModelEvaluator(definition, torch.device("cpu"), torch.float32)
    sets = list(LayerSpace(evaluator.n_layers, 0, definition.layers.max))
    rows = []
    for answers in evaluator.evaluate(sets, start, stop):
        if isinstance(answers, EvaluationError):
            raise answers
        rows.append(answers)
    return np.stack(rows)


def record(study: str, workers: int) -> Landscape:
    """Evaluate every set of the study's budget, and the base, on the search questions."""
    definition = load_study(study)
    if definition.is_real_valued or len(definition.donor_names) > 1:
        raise InputError(f"study {study}: expected one donor and tasks that are right or wrong")
    evaluator = ModelEvaluator(definition, torch.device("cpu"), torch.float32)
    n_full = evaluator.order.n_full
    step = -(-n_full // (4 * workers))
    jobs = [(study, start, min(n_full, start + step)) for start in range(0, n_full, step)]
    started = time.monotonic()
    parts: list[np.ndarray[Any, np.dtype[np.bool_]]] = []
    sets = list(LayerSpace(evaluator.n_layers, 0, definition.layers.max))
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for answers in pool.imap(_part, jobs):
            parts.append(answers)
            print(
                f"{len(parts)} of {len(jobs)} parts, {time.monotonic() - started:.0f} s", flush=True
            )
    return Landscape.of(evaluator.n_layers, evaluator.order, sets, np.concatenate(parts, axis=1))


def describe(landscape: Landscape) -> None:
    """Print what a search should find."""
    scores = landscape.scores()
    ranked = sorted(scores, key=lambda s: (-scores[s], len(s), s))
    print(f"base: {scores[LayerSet(())]:.4f}")
    most = max(len(layers) for layers in scores)
    for size in range(1, most + 1):
        best = next(s for s in ranked if len(s) == size)
        print(f"best of {size}: {scores[best]:.4f} [{best}]")
    for layers in ranked[:10]:
        print(f"  {scores[layers]:.4f} [{layers}]")
    top = scores[ranked[0]]
    for gap in (0.0, 0.005, 0.01, 0.02, 0.05):
        near = sum(score >= top - gap - 1e-12 for score in scores.values())
        print(f"within {100 * gap:.1f} points of the best: {near} sets")
    chosen = LayerSet(())
    for _ in range(most):
        options = [LayerSet((*chosen, i)) for i in range(landscape.n_layers) if i not in chosen]
        chosen = max(options, key=lambda s: scores[s])
        print(f"greedy addition: {scores[chosen]:.4f} [{chosen}]")


def main() -> None:
    """Record, save, describe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", default="demo")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--describe", action="store_true", help="only describe what there is")
    args = parser.parse_args()
    try:
        if not args.describe:
            record(args.study, args.workers).save(args.out)
        describe(Landscape.load(args.out))
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
