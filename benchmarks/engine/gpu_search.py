"""`optlayers search` itself on a pair of random weights: does it keep the GPU busy?

    python -m benchmarks.engine.gpu_search --shape llamba-8b --dir /scratch --out benchmarks/engine

Makes a pair in the published format (8B: 32 GB, free again afterwards) and an lm-eval group of
MMLU's shape, 57 subjects of 10 questions, and runs the command. With `--per-subject 40 --fast 20`
the rungs of a race are as large as those of `studies/full.yaml`, 285 questions and more.
Busy is what nvidia-smi says of the GPU from the start of the first trial to the end of the last.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
import yaml

from benchmarks.lib import program
from benchmarks.lib.engine_inputs import SUBJECTS, questions
from benchmarks.lib.random_pair import SHAPES, make_pair
from optlayers.trials.worker_state import read_workers

DATA = '''"""Reads a subject's questions from beside this file."""

import json
from pathlib import Path

from datasets import Dataset


def load(file, **_):
    with (Path(__file__).parent / file).open(encoding="utf-8") as lines:
        return {"test": Dataset.from_list([json.loads(line) for line in lines])}
'''
TASK = """dataset_path: none
custom_dataset: !function data.load
dataset_kwargs: {{file: {name}.jsonl}}
task: {name}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: [t32, t33, t34, t35]
doc_to_target: answer
num_fewshot: 0
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""


def make_tasks(folder: Path, vocabulary: int, per_subject: int) -> None:
    """Write the group `shaped`: the questions of the engine's benchmark, as text."""
    folder.mkdir()
    (folder / "data.py").write_text(DATA)
    names = [f"shaped_{i:02d}" for i in range(SUBJECTS)]
    weighting = [{"metric": "acc", "weight_by_size": True}]
    group = {"group": "shaped", "task": names, "aggregate_metric_list": weighting}
    (folder / "shaped.yaml").write_text(yaml.safe_dump(group))
    lines: dict[str, list[str]] = {name: [] for name in names}
    for question in questions(vocabulary, 0, per_subject):
        words = " ".join(f"t{token}" for token in question.requests[0].tokens)
        document = {"question": words, "answer": question.document % 4}
        lines[names[question.subject]].append(json.dumps(document))
    for name in names:
        (folder / f"{name}.yaml").write_text(TASK.format(name=name))
        (folder / f"{name}.jsonl").write_text("\n".join(lines[name]) + "\n")


def study_file(folder: Path, layers: int, precision: str, fast: int) -> Path:
    """A small study of every phase; the single scores are made up, since nothing is learnt."""
    scores = np.random.default_rng(0).uniform(0.24, 0.5, layers).round(3).tolist()
    study: dict[str, Any] = {
        "name": f"shaped-{precision}",
        "base": {"model": "base"},
        "donor": {"model": "donor"},
        "layers": {"min": 1, "max": 4},
        "tasks": [{"name": "shaped"}],
        "task_path": "tasks",
        "questions": {"fast": fast, "full": None, "fast_precision": precision},
        "explore": {"population": 16, "generations": 4, "patience": 4},
        "validate": {"top": 6},
        "refine": {"top": 1, "verify": 4, "rounds": 1},
        "prior": {"single_layer_scores": scores},
    }
    path = folder / f"{precision}.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def watch(path: Path) -> subprocess.Popen[str] | None:
    """Start to write the GPU's utilisation ten times a second; None where there is no GPU."""
    if not torch.cuda.is_available():
        return None
    command = "nvidia-smi --query-gpu=timestamp,utilization.gpu --format=csv,noheader,nounits"
    with path.open("w") as out:
        return subprocess.Popen([*command.split(), "-lms", "100"], stdout=out, text=True)


def busy(path: Path, begin: datetime.datetime, end: datetime.datetime) -> tuple[float, int]:
    """Mean utilisation in per cent between two moments, and the number of looks."""
    seen = []
    for line in path.read_text().splitlines():
        when, _, percent = line.partition(",")
        try:
            moment = datetime.datetime.strptime(when.strip(), "%Y/%m/%d %H:%M:%S.%f")
            value = float(percent)
        except ValueError:  # the last line may be cut
            continue
        if begin <= moment <= end:
            seen.append(value)
    return (float(np.mean(seen)) if seen else float("nan")), len(seen)


def search(work: Path, file: Path) -> dict[str, str]:
    """Run the command; what it did."""
    url = f"sqlite:///{file.with_suffix('.db')}"
    log = file.with_suffix(".smi")
    watcher = watch(log)
    command = [sys.executable, "-m", "optlayers", "search", "--study", str(file)]
    paths = [str(program.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    began = time.monotonic()
    try:
        subprocess.run([*command, "--storage", url], check=True, env=env, cwd=work)
    finally:
        if watcher is not None:
            watcher.terminate()
    study = optuna.load_study(study_name=None, storage=url)
    trials = [t for t in study.get_trials(deepcopy=False) if t.datetime_complete is not None]
    begin = min(t.datetime_start for t in trials if t.datetime_start is not None)
    end = max(t.datetime_complete for t in trials if t.datetime_complete is not None)
    window = (end - begin).total_seconds()
    workers = read_workers(study.user_attrs)
    spent = sum(worker.seconds for worker in workers)
    passes = sum(worker.passes for worker in workers)
    found = {
        "trials": str(len(trials)),
        "questions answered": f"{sum(worker.questions for worker in workers):,}",
        "seconds of the whole command": f"{time.monotonic() - began:.0f}",
        "seconds from the first trial to the last": f"{window:.1f}",
        "question-layer passes a second while evaluating": f"{passes / spent:,.0f}",
    }
    if watcher is not None:
        share, looks = busy(log, begin, end)
        found["GPU busy between them"] = f"{share:.1f} % (mean of {looks} looks)"
    return found


def main() -> None:
    """Measure, print, save."""
    parser = program.parser(__doc__)
    parser.add_argument("--shape", default="demo", choices=sorted(SHAPES))
    parser.add_argument("--dir", type=Path, help="where the models go (default: /tmp or the like)")
    parser.add_argument("--precisions", nargs="*", default=["model", "fp8"])
    parser.add_argument("--per-subject", type=int, default=10, help="questions of each subject")
    parser.add_argument("--fast", type=int, default=5, help="of them at the fast fidelity")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    columns: dict[str, dict[str, str]] = {}
    if args.dir is not None:
        args.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        work = Path(folder)
        kind = "bfloat16" if device == "cuda" else "float32"
        make_pair(work, args.shape, device, kind)
        if device == "cuda":
            torch.cuda.empty_cache()
        make_tasks(work / "tasks", SHAPES[args.shape][5], args.per_subject)
        for precision in args.precisions:
            file = study_file(work, SHAPES[args.shape][1], precision, args.fast)
            columns[precision] = search(work, file)
            print(precision, columns[precision], flush=True)
    rows = list(dict.fromkeys(row for column in columns.values() for row in column))
    lines = [
        f"# `optlayers search` on {name}",
        "",
        f"{program.made_by(__file__, *program.given_arguments())}: random weights, 57 subjects of "
        f"{args.per_subject} questions, one worker. fp8: `questions.fast_precision: fp8`.",
        "",
        f"| | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
        *(f"| {row} | {' | '.join(c.get(row, '') for c in columns.values())} |" for row in rows),
    ]
    program.save(args.out, f"gpu_search-{args.per_subject}.md", "\n".join(lines))


if __name__ == "__main__":
    main()
