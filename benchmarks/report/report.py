"""Makes a study of 5,000 trials of 32 layers on MMLU's subjects, and measures its report.

Prints and saves seconds, CPU seconds and bytes; the study is made of random answers around a known
truth.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from optuna.trial import TrialState

from benchmarks.lib import program
from optlayers.config.study import load_study
from optlayers.evaluation.questions import Subject, order_questions
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search import search_space
from optlayers.storage.connect import open_study
from optlayers.storage.store import Change, NewTrial, store_of
from optlayers.trials import keys
from optlayers.trials.answers import encode_answers
from optlayers.trials.record import Record, claim_attrs
from optlayers.trials.statistics import StratifiedScore

LAYERS, SUBJECTS, PER_SUBJECT = 32, 57, 246
BATCH = 500


def make(url: str, trials: int) -> float:
    """Fill a database; the seconds it took."""
    began = time.perf_counter()
    definition = load_study("full")
    study = open_study(url, definition)
    subjects = [
        Subject(f"mmlu_subject_{i:02d}", PER_SUBJECT, 1 / SUBJECTS) for i in range(SUBJECTS)
    ]
    order = order_questions(subjects, definition.questions)
    for key, value in {
        keys.N_LAYERS: LAYERS,
        keys.N_FAST: order.n_fast,
        keys.N_FULL: order.n_full,
        keys.QUESTION_STRATA: order.subject.tolist(),
        keys.SUBJECT_WEIGHTS: order.weights.tolist(),
        "subjects": [s.name for s in subjects],
    }.items():
        study.set_user_attr(key, value)
    rng = np.random.default_rng(0)
    scorer = StratifiedScore(strata=order.subject, weights=order.weights)
    hardness = rng.random(order.n_full)
    worth = np.clip(rng.normal(0.01, 0.02, LAYERS), 0, None)
    worth[[9, 13, 14, 17, 29]] += [0.05, 0.06, 0.07, 0.12, 0.04]
    space, seen = LayerSpace(LAYERS), set[tuple[int, ...]]()
    distributions = search_space(space)
    population = definition.explore.population
    while len(seen) < trials:
        wanted: list[NewTrial] = []
        goals: list[tuple[LayerSet, int]] = []
        while len(wanted) < min(BATCH, trials - len(seen)):
            size = int(rng.integers(1, 5))
            chance = (worth + 0.01) / (worth + 0.01).sum()
            layers = LayerSet(tuple(rng.choice(LAYERS, size, replace=False, p=chance).tolist()))
            if layers.indices in seen:
                continue
            generation = len(seen) // population
            seen.add(layers.indices)
            full = rng.random() < 0.1
            record = Record(
                -1, TrialState.RUNNING, layers, "explore", "race", generation=generation
            )
            attrs = claim_attrs(record, space)
            wanted.append(NewTrial(space.params(layers), distributions, attrs))
            goals.append((layers, order.n_full if full else order.n_fast))
        made = store_of(study).insert_running(wanted, unique=keys.LAYERS)
        changes = []
        for found, (layers, count) in zip(made, goals, strict=True):
            assert found is not None
            skill = 0.3 + worth[list(layers.indices)].sum()
            answers = hardness[:count] + rng.normal(0, 0.1, count) < skill
            interval = scorer.interval(answers)
            first = scorer.score(answers[: order.n_fast])
            full = count == order.n_full
            changes.append(
                Change(
                    found,
                    TrialState.RUNNING,
                    TrialState.COMPLETE if full else TrialState.PRUNED,
                    {
                        keys.ANSWERS: encode_answers(answers),
                        keys.QUESTIONS: count,
                        keys.EVALUATED: count,
                        keys.SCORE: interval.score,
                        keys.CI_LOW: interval.ci_low,
                        keys.CI_HIGH: interval.ci_high,
                        keys.FIDELITY: "full" if full else "fast",
                    },
                    interval.score,
                    {order.n_fast: first, count: interval.score},
                )
            )
        store_of(study).swap_states(changes)
    return time.perf_counter() - began


def used() -> float:
    """CPU seconds of the commands so far: what a busy machine does not change."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def main() -> None:
    """Make, measure, print, save."""
    parser = program.parser(__doc__)
    parser.add_argument("--trials", type=int, default=5000)
    args = parser.parse_args()
    lines = ["| what | seconds | CPU seconds | MB |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = f"sqlite:///{folder / 'optuna.db'}"
        made = make(url, args.trials)
        size = (folder / "optuna.db").stat().st_size
        lines.append(
            f"| making the study of {args.trials:,} trials | {made:.1f} "
            f"| {time.process_time():.1f} | {size / 1e6:.2f} |"
        )
        for kind in ("html", "md", "json"):
            target = folder / f"report.{kind}"
            began, before = time.perf_counter(), used()
            subprocess.run(
                [sys.executable, "-m", "optlayers", "report", "--study", "full", "--storage", url,
                 "--out", str(target)],
                check=True,
                cwd=program.ROOT,
            )  # fmt: skip
            seconds = time.perf_counter() - began
            size = target.stat().st_size
            lines.append(
                f"| report.{kind} | {seconds:.1f} | {used() - before:.1f} | {size / 1e6:.2f} |"
            )
    table = "\n".join(lines)
    text = (
        f"# The report of a large study\n\n{program.made_by(__file__)} on two CPU cores: "
        f"32 layers, 57 subjects, 14,022 questions; the whole command.\n\n{table}\n"
    )
    program.save(args.out, "report.md", text)


if __name__ == "__main__":
    main()
