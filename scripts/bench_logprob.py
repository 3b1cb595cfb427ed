"""Does the log-probability of the right choice rank layer sets earlier than right or wrong does?

    python scripts/bench_logprob.py --study demo --sets 250 --out benchmarks
    python scripts/bench_logprob.py --study examples/smollm2/study.yaml --size 4 --out benchmarks

Random layer sets answer the questions of a study and those it sets aside. From a few questions each
set gets a score: the share of right answers, the mean log-probability of the right choice among the
choices, or both in one least-squares fit (made on other sets). How well each ranks the sets is told
by the rank correlation with the share of right answers on all the other questions.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from optlayers.evaluation.evaluator import ModelEvaluator, pick_device, pick_dtype  # noqa: E402
from optlayers.layerset import LayerSet  # noqa: E402
from optlayers.search import LayerSpace  # noqa: E402
from optlayers.search.statistics import FloatArray, spearman  # noqa: E402
from optlayers.study import load_study  # noqa: E402

COHORT = 50


def answers(evaluator: ModelEvaluator, sets: list[LayerSet]) -> tuple[FloatArray, FloatArray]:
    """Right (0 or 1) and log-probability of the right choice, [sets, questions] each."""
    order = evaluator.order
    subject = np.concatenate([order.subject, order.held_subject])
    document = np.concatenate([order.document, order.held_document])
    questions = evaluator.tasks.questions(subject.tolist(), document.tolist())
    right = np.zeros((len(sets), len(questions)))
    sure = np.zeros((len(sets), len(questions)))
    for start in range(0, len(sets), COHORT):
        part = sets[start : start + COHORT]
        found = evaluator.engine.likelihoods(part, questions)[:, :, 0]
        place = 0
        for q, question in enumerate(questions):
            mine = found[:, place : place + len(question.requests)]
            place += len(question.requests)
            won = evaluator.tasks.winners(question)
            if won is None:
                name = evaluator.subjects[question.subject].name
                sys.exit(f"task {name} looks at more than the likeliest choice; ask another")
            chosen = won[mine.argmax(axis=1)]
            right[start : start + len(part), q] = chosen
            logs = np.logaddexp.reduce(mine[:, won], axis=1) - np.logaddexp.reduce(mine, axis=1)
            sure[start : start + len(part), q] = logs
        print(f"\r{start + len(part)} of {len(sets)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return right, sure


def fitted(
    right: FloatArray, sure: FloatArray, truth: FloatArray, rng: np.random.Generator
) -> float:
    """Rank correlation of a least-squares fit on both, made on one half, told on the other."""
    x = np.column_stack([np.ones_like(right), right, sure])
    found = []
    for _ in range(10):
        order = rng.permutation(len(truth))
        half = len(order) // 2
        for fit, told in ((order[:half], order[half:]), (order[half:], order[:half])):
            weights = np.linalg.lstsq(x[fit], truth[fit], rcond=None)[0]
            found.append(spearman(x[told] @ weights, truth[told]))
    return float(np.mean(found))


def main() -> None:
    """Run, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", default="demo")
    parser.add_argument("--sets", type=int, default=250)
    parser.add_argument("--size", type=int, help="layers of every set; by default of all sizes")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--save", type=Path, help="an .npz for what was answered")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    definition = load_study(args.study)
    device = pick_device(None)
    evaluator = ModelEvaluator(definition, device, pick_dtype(None, device))
    rng = np.random.default_rng(0)
    space = LayerSpace(
        n_layers=evaluator.n_layers,
        min_layers=definition.layers.min,
        max_layers=definition.layers.max,
    )
    sets: dict[LayerSet, None] = {}
    while len(sets) < min(args.sets, space.size):
        sets[space.random(rng, args.size or space.random_size(rng))] = None
    right, sure = answers(evaluator, list(sets))
    if args.save is not None:
        texts = [layers.text() for layers in sets]
        np.savez_compressed(args.save, sets=texts, right=right.astype(bool), sure=sure)
    total = right.shape[1]
    of = f" of {args.size} layers" if args.size else ""
    stem = definition.name + (f"-{args.size}" if args.size else "")
    best = np.argsort(-right.mean(axis=1))[: len(sets) // 4]
    text = (
        "# Log-probability against right or wrong\n\nMade by `scripts/bench_logprob.py`: "
        f"{len(sets)} random layer sets{of} of study `{definition.name}`. From a few "
        f"questions, drawn at random {args.draws} times out of {total}: rank "
        "correlation with the share of right answers on all other questions, mean "
        "(standard deviation over draws).\n"
    )
    for title, rows in (("All sets", np.arange(len(sets))), ("The best quarter of them", best)):
        text += f"\n{title}:\n\n| questions | right or wrong | log-probability | both |\n"
        text += "|---|---|---|---|\n"
        for n in (6, 12, 24, 48, 96):
            values = []
            for _ in range(args.draws):
                order = rng.permutation(total)
                mine, rest = order[:n], order[n:]
                truth = right[np.ix_(rows, rest)].mean(axis=1)
                share = right[np.ix_(rows, mine)].mean(axis=1)
                logs = sure[np.ix_(rows, mine)].mean(axis=1)
                both = fitted(share, logs, truth, rng)
                values.append((spearman(share, truth), spearman(logs, truth), both))
            table = np.array(values)
            cells = [f"{m:.3f} ({s:.3f})" for m, s in zip(table.mean(0), table.std(0), strict=True)]
            text += f"| {n} | " + " | ".join(cells) + " |\n"
    print(text)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / f"logprob-{stem}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
