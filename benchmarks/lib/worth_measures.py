"""What `benchmarks/worth.py` measures: figures with a mechanism on and off, as JSON on stdout."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.lib.program import LANDSCAPE, REAL_LANDSCAPE

REPEATS, SETS = 3, 8
WORKERS = 4
FINISHED = 10_000  # trials of the study that is read
SEEDS = 100


def _tell(found: Any) -> None:
    print(json.dumps(found), flush=True)


def cpu() -> None:
    """A cohort of the demo's pair on the CPU, with each switch of the engine off and on in turn."""
    import torch

    from benchmarks.engine.engine import demo, random_sets
    from benchmarks.lib.engine_inputs import FirstIsRight
    from optlayers.evaluation.engine import Engine
    from optlayers.inference.packed import Ops

    logging.disable(logging.WARNING)
    device = torch.device("cpu")
    stack, asked = demo(device, torch.float32)
    asked = [asked[i] for i in np.random.default_rng(2).permutation(len(asked))]
    sets = random_sets(stack.n_layers, SETS)
    narrow = stack._ops

    def run(form: bool = True, threads: bool = True, **options: Any) -> tuple[float, float]:
        stack.narrow_ops, stack.narrow = form, threads
        stack._ops = narrow if form else Ops()
        engine = Engine(stack, FirstIsRight(), device, **options)
        began, cpu = time.perf_counter(), time.process_time()
        engine.answers(sets, asked)
        return time.perf_counter() - began, time.process_time() - cpu

    switches: dict[str, dict[str, Any]] = {
        "narrow form": {"form": False},
        "threads": {"threads": False},
        "narrow form and threads": {"form": False, "threads": False},
        "tree": {"tree": False},
        "trim": {"trim": False},
        "sort": {"sort": False},
        "budget of 4,096": {"budget": 4096},
    }
    found: dict[str, dict[str, list[float]]] = {s: {"wall": [], "cpu": []} for s in switches}
    run()
    for _ in range(REPEATS):
        for name, options in switches.items():
            on, off = run(), run(**options)
            for place, key in enumerate(("wall", "cpu")):
                found[name][key].append(round(off[place] / on[place], 3))
    _tell({"sets": SETS, "questions": len(asked), "off": found})


def _load(mode: str, folder: str) -> None:
    """What one of several workers does at its start: load the pair, and look at every weight."""
    import torch

    from optlayers.checkpoints.parents import Parents
    from optlayers.checkpoints.reader import Checkpoint
    from optlayers.inference import stack as stacks

    torch.set_num_threads(1)
    alone = mock.patch.object(stacks, "map_weights", lambda parents, *_: list(parents))
    base, donor = (Checkpoint(name, Path(folder) / name) for name in ("base", "donor"))
    began = time.process_time()
    with alone if mode == "off" else contextlib.nullcontext():
        stack = stacks.LayerStack.load(Parents(base, (donor,)), torch.device("cpu"), torch.float32)
        modules = [stack.embedding, stack.norm, stack.head]
        modules += [side.layers[i] for side in stack.sides for i in range(stack.n_layers)]
        sum(float(p.detach().sum()) for module in modules for p in module.parameters())
    _tell(time.process_time() - began)
    sys.stdin.readline()


def weights() -> None:
    """Memory of four CPU workers in float32 on bfloat16 files, and the CPU time of their starts."""
    from benchmarks.lib import random_pair

    shape = (576, 30, 9, 3, 1536, 49152, 16, 9)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        with mock.patch.dict(random_pair.SHAPES, {"smollm2": shape}):
            random_pair.make_pair(Path(folder), "smollm2", "cpu", "bfloat16")
        code = "import sys; from benchmarks.lib.worth_measures import _load; _load(*sys.argv[1:])"
        for mode in ("on", "off"):
            processes = [
                subprocess.Popen(
                    [sys.executable, "-c", code, mode, folder],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, "OPTLAYERS_MODELS": f"{folder}/store"},
                )
                for _ in range(WORKERS)
            ]
            seconds = [float((p.stdout or sys.stdin).readline()) for p in processes]
            # What several processes map counts once.
            memory = sum(_proportional(process.pid) for process in processes)
            for process in processes:
                process.communicate(b"\n")
            found[mode] = {
                "memory": round(memory / 1e6),
                "cpu": round(float(np.median(seconds)), 2),
            }
    _tell(found)


def _proportional(pid: int) -> float:
    """Bytes of a process, what it shares divided by those who share it."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def storage() -> None:
    """CPU time of a trial, and of the first read of a long study, as built and by Optuna's code."""
    from optuna.storages import RDBStorage

    from benchmarks.storage import storage as bench
    from optlayers.storage import read, tables

    plain_calls = mock.patch.object(tables, "difference", return_value="measured without")
    plain_reader = mock.patch.object(read.FastRDBStorage, "_get_trials", RDBStorage._get_trials)
    found: dict[str, dict[str, float]] = {}
    with bench.sqlite_url() as url:
        evaluator = bench.Instant()
        bench.fill(bench.worker_at(url, 16, evaluator), evaluator, FINISHED)
        for name, patch in (
            ("all", contextlib.nullcontext()),
            ("plain reader", plain_reader),
            ("public calls", plain_calls),
        ):
            with patch:
                joins = bench.worker_at(url, 16, evaluator)
                began = time.process_time()
                joins._records()
                first = 1000 * (time.process_time() - began)
                with bench.sqlite_url() as other:
                    _, trial, _ = bench.trial_cost(other, 16, 64)
            found[name] = {"first read": round(first), "trial": round(trial, 1)}
    _tell(found)


def importances() -> None:
    """Layers that matter by the dashboard's own importances, by the figure, and in truth."""
    import optuna

    from benchmarks.lib.landscapes import recorded
    from optlayers.config.study import load_study
    from optlayers.layerset import LayerSet
    from optlayers.results.view import StudyView
    from optlayers.search.effects import explain
    from optlayers.trials.statistics import spearman

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    known = recorded(LANDSCAPE)
    scores = {s: float(x) for s, x in zip(known.index, known.scores, strict=True)}
    layers = range(known.n_layers)
    true = np.array([_effect(i, scores, known.max_layers) for i in layers])
    with tempfile.TemporaryDirectory() as folder:
        replay = Path(folder) / "replay.yaml"
        replay.write_text(f"landscape: {LANDSCAPE}\n", encoding="utf-8")
        url = f"sqlite:///{folder}/optuna.db"
        command = f"-m optlayers search --study demo --storage {url} --workers 1 --replay {replay}"
        subprocess.run([sys.executable, *command.split()], check=True, capture_output=True)
        study = optuna.load_study(study_name="demo", storage=url)
        fanova = optuna.importance.FanovaImportanceEvaluator(seed=0)
        plain = optuna.importance.get_param_importances(study, evaluator=fanova)
        view = StudyView.of(load_study("demo"), study)
        explained = explain(view.records, view.space)
    assert explained is not None
    theirs = np.array([plain.get(f"layer_{i:02d}", 0.0) for i in layers])
    ours = np.array([effect.effect for effect in explained.layers])
    top = {"dashboard": theirs, "figure": ours, "true": true}
    first = {name: str(LayerSet.of(*np.argsort(-x)[:4].tolist())) for name, x in top.items()}
    _tell({**first, "plain": spearman(theirs, true), "ours": spearman(ours, true)})


def _effect(layer: int, scores: dict[Any, float], most: int) -> float:
    """What a layer adds, averaged over all sets that have room for it."""
    from optlayers.layerset import LayerSet

    return float(
        np.mean(
            [
                scores[LayerSet((*layers, layer))] - score
                for layers, score in scores.items()
                if layer not in layers and len(layers) < most
            ]
        )
    )


def logprobs() -> None:
    """The cost of the best set of demo and real pair, with and without log-probabilities."""
    import torch

    from benchmarks.lib.landscapes import recorded
    from benchmarks.search.ablation import ratio
    from optlayers.config.study import load_study
    from optlayers.errors import EvaluationError
    from optlayers.evaluation.evaluator import ModelEvaluator

    known = recorded(LANDSCAPE)
    evaluator = ModelEvaluator(load_study("demo"), torch.device("cpu"), torch.float32)
    sets = sorted(known.index, key=lambda layers: layers.indices)
    logs = np.zeros((len(sets), known.n_fast))
    for start in range(0, len(sets), 120):  # neighbours share most of their layers
        part = sets[start : start + 120]
        for layers, judged in zip(part, evaluator.judge(part, 0, known.n_fast), strict=True):
            assert not isinstance(judged, EvaluationError)
            assert judged.logs is not None
            logs[known.index[layers]] = judged.logs
        print(f"\r{start} of {len(sets)}", end="", file=sys.stderr, flush=True)
    demo = replace(
        known,
        logs=lambda layers, start, stop: (
            logs[known.index[layers], start:stop] if stop <= known.n_fast else None
        ),
    )
    found = {}
    for name, pair in (("demo", demo), ("smollm2", recorded(REAL_LANDSCAPE, 3))):
        rows = [row for seed in range(SEEDS) for row in _with_and_without(name, pair, seed)]
        interval = ratio(rows, "no log-probabilities", [name])
        found[name] = [round(x, 3) for x in interval]
    _tell({"ratios": found, "runs": SEEDS})


def _with_and_without(name: str, known: Any, seed: int) -> list[dict[str, Any]]:
    from benchmarks.lib.competitors import EndedError, Oracle, optlayers
    from benchmarks.search.search import BUDGET, NEAR

    rows = []
    for variant in ("all", "no log-probabilities"):
        without = replace(known, logs=lambda layers, start, stop: None)
        oracle = Oracle(known if variant == "all" else without, known.best - NEAR, BUDGET)
        with contextlib.suppress(EndedError):
            optlayers(oracle, np.random.default_rng(seed))
        rows.append(
            {
                "landscape": name,
                "seed": seed,
                "variant": variant,
                "found": oracle.best >= oracle.target,
                "cost": oracle.cost,
            }
        )
    return rows


MEASURES: dict[str, Callable[[], None]] = {
    "cpu": cpu,
    "weights": weights,
    "storage": storage,
    "importances": importances,
    "logprobs": logprobs,
}
