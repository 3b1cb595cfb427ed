"""Records what many layer sets of the pair answer, so that searches can be compared without a GPU.

    python -m examples.smollm2_mamba.make_landscape --pair examples/smollm2_mamba/pair

Base, donor, all sets of 1 to 3 layers, and 1,000 sets of four: half of them random, half one layer
more than one of the best sets of three. For each: the answers to the search questions of the
tasks (`lookup.npz`, `common_sense.npz`), and the divergence of base, singles and pairs from the
donor on text (`kl.npz`). Some ten minutes on one GPU.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import torch

from optlayers.config.study import StudyDefinition, parse_study
from optlayers.evaluation.evaluator import ModelEvaluator
from optlayers.inference.device import pick_device, pick_dtype
from optlayers.layerset import LayerSet
from optlayers.testing import Landscape

HERE = Path(__file__).resolve().parent
BUDGET = 65_536  # tokens a batch: the model is small
COHORT = 2_000
SETS_OF_FOUR = 1_000
STUDY = """\
name: {name}
base: {{model: {pair}/base}}
donor: {{model: {pair}/donor}}
layers: {{min: 1, max: 4}}
tasks: [{task}]
task_path: tasks
questions: {{fast: {fast}, full: {full}, holdout: {holdout}}}
"""


def definition(
    name: str, pair: Path, task: str, fast: int, full: int, holdout: float
) -> StudyDefinition:
    """A study of one task of this example."""
    text = STUDY.format(name=name, pair=pair, task=task, fast=fast, full=full, holdout=holdout)
    return parse_study(text, name, HERE)


def record(study: StudyDefinition, device: torch.device, sets: list[LayerSet]) -> Landscape:
    """Evaluate sets in cohorts that share first layers."""
    evaluator = ModelEvaluator(study, device, pick_dtype(None, device))
    evaluator.engine.budget = BUDGET
    done: list[Landscape] = []
    started = time.monotonic()
    for start in range(0, len(sets), COHORT):
        done.append(Landscape.record(evaluator, sets[start : start + COHORT]))
        print(f"{study.name}: {start + COHORT} of {len(sets)}, {time.monotonic() - started:.0f} s")
    logs = [part.logs for part in done if part.logs is not None]
    return Landscape.of(
        evaluator.n_layers,
        evaluator.order,
        sets,
        np.concatenate([part.answers for part in done]),
        np.concatenate(logs) if len(logs) == len(done) else None,
    )


def layer_sets(n_layers: int, most: int) -> list[LayerSet]:
    """Base, donor, and all sets of 1 to `most` layers."""
    sizes = [itertools.combinations(range(n_layers), size) for size in range(most + 1)]
    return [*(LayerSet(found) for size in sizes for found in size), LayerSet(range(n_layers))]


def sets_of_four(known: Landscape, seed: int = 0) -> list[LayerSet]:
    """Random sets of four, and extensions of the best sets of three."""
    rng = np.random.default_rng(seed)
    n = known.n_layers
    found: set[tuple[int, ...]] = set()
    while len(found) < SETS_OF_FOUR // 2:
        found.add(tuple(sorted(rng.choice(n, 4, replace=False).tolist())))
    scores = {layers: score for layers, score in known.scores().items() if len(layers) == 3}
    for layers in sorted(scores, key=lambda one: -scores[one]):
        for layer in range(n):
            if layer not in layers and len(found) < SETS_OF_FOUR:
                found.add(tuple(sorted([*layers, layer])))
    return [LayerSet(indices) for indices in sorted(found)]


def joined(one: Landscape, other: Landscape) -> Landscape:
    """The sets of both."""
    logs = (
        None if one.logs is None or other.logs is None else np.concatenate([one.logs, other.logs])
    )
    sets = [*one.index, *other.index]
    return Landscape.of(
        one.n_layers, one.order, sets, np.concatenate([one.answers, other.answers]), logs
    )


def main() -> None:
    """Record and save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pair", type=Path, default=HERE / "pair")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--most", type=int, default=3, help="all sets of up to so many layers")
    parser.add_argument("--text", type=Path, help="text for the divergence from the donor")
    options = parser.parse_args()
    device, pair = pick_device(None), options.pair.resolve()
    lookup = definition("lookup", pair, "{name: lookup}", 24, 144, 0.4)
    n_layers = ModelEvaluator(lookup, torch.device("cpu"), torch.float32).n_layers
    sets = layer_sets(n_layers, options.most)
    known = record(lookup, device, sets)
    known.save(options.out / "lookup.npz")
    more = sets_of_four(known) if options.most >= 3 else []
    if more:
        joined(known, record(lookup, device, more)).save(options.out / "lookup.npz")
    common = definition("common_sense", pair, "{name: common_sense}", 24, 240, 0.4)
    record(common, device, [*sets, *more]).save(options.out / "common_sense.npz")
    if options.text is not None:
        task = f"{{text: {options.text.resolve()}, name: kl, metric: kl}}"
        study = definition("kl", pair, task, 8, 8, 0.0)
        evaluator = ModelEvaluator(study, device, pick_dtype(None, device))
        few = layer_sets(n_layers, 2)
        found = evaluator.texts.values(few, 0, range(8))
        masks = [sum(1 << i for i in layers) for layers in few]
        np.savez_compressed(
            options.out / "kl.npz",
            masks=np.array(masks, dtype=np.uint64),
            nats=-found.mean(axis=1).astype(np.float32),
        )


if __name__ == "__main__":
    main()
