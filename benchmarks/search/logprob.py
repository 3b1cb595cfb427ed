"""What log-probabilities of the right choice add to right and wrong, as the search uses them.

    python -m benchmarks.search.logprob --study demo --sets 240 --out benchmarks/search
    python -m benchmarks.search.logprob --study examples/smollm2/study.yaml --size 4

Random layer sets answer the questions of a study and those it sets aside. From a few questions each
set gets the share of right answers, the mean log-probability of the right choice among the choices,
and both as `optlayers.search.logprobs` joins them. Told by all the other questions: how well each
ranks the sets, how well the search's model of the scores ranks sets that it has not seen, and how
good the ten sets are that come first.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from optuna.trial import TrialState

from benchmarks.lib import program
from optlayers.config.study import load_study
from optlayers.evaluation.evaluator import ModelEvaluator
from optlayers.inference.device import pick_device, pick_dtype
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search.history import individuals_from
from optlayers.search.individual import Individual
from optlayers.search.logprobs import note_rung
from optlayers.search.surrogate import Surrogate
from optlayers.trials.record import Record
from optlayers.trials.statistics import FloatArray, spearman

COHORT, TOP = 50, 10


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
                name = evaluator.order.subjects[question.subject].name
                sys.exit(f"task {name} looks at more than the likeliest choice; ask another")
            chosen = won[mine.argmax(axis=1)]
            right[start : start + len(part), q] = chosen
            logs = np.logaddexp.reduce(mine[:, won], axis=1) - np.logaddexp.reduce(mine, axis=1)
            sure[start : start + len(part), q] = logs
        print(f"\r{start + len(part)} of {len(sets)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return right, sure


def individuals(
    sets: list[LayerSet], right: FloatArray, sure: FloatArray | None, space: LayerSpace
) -> list[Individual]:
    """The sets as the search sees them, with log-probabilities or without; [sets, questions]."""
    records = []
    for number, layers in enumerate(sets):
        logs = None if sure is None else sure[number]
        halves = note_rung({}, right[number] > 0, 0, logs)
        score = float(right[number].mean())
        records.append(
            Record(
                number=number,
                state=TrialState.PRUNED,
                layers=layers,
                questions=right.shape[1],
                score=score,
                fidelity="fast",
                intermediate={right.shape[1]: score},
                halves=halves,
            )
        )
    return individuals_from(records, space=space, population_size=16)


def told(found: list[Individual], truth: FloatArray, n_layers: int) -> tuple[float, float, float]:
    """Rank correlation of the scores, and of the model on every other set; share of the best."""
    scores = np.array([individual.score for individual in found], dtype=float)
    seen, unseen = found[::2], found[1::2]
    model = Surrogate(
        [Individual(i.layers, i.fitness, variance=i.variance) for i in seen], n_layers
    )
    guessed = model.mean([individual.layers for individual in unseen])
    first = np.argsort(-scores, kind="stable")[:TOP]
    return spearman(scores, truth), spearman(guessed, truth[1::2]), float(truth[first].mean())


def table(
    sets: list[LayerSet], right: FloatArray, sure: FloatArray, space: LayerSpace, draws: int
) -> str:
    """Markdown: what is told from a few questions, mean over draws."""
    rng = np.random.default_rng(1)
    lines = [
        "| questions | ranks: right or wrong | log-probability | both | model of unseen sets: "
        f"right or wrong | both | the best {TOP}, %: right or wrong | both |",
        "|---" * 8 + "|",
    ]
    for n in (6, 12, 24, 48, 96):
        values = []
        for _ in range(draws):
            order = rng.permutation(right.shape[1])
            mine, truth = order[:n], right[:, order[n:]].mean(axis=1)
            plain = told(individuals(sets, right[:, mine], None, space), truth, space.n_layers)
            both = told(
                individuals(sets, right[:, mine], sure[:, mine], space), truth, space.n_layers
            )
            log = spearman(sure[:, mine].mean(axis=1), truth)
            values.append(
                (plain[0], log, both[0], plain[1], both[1], 100 * plain[2], 100 * both[2])
            )
        mean = np.mean(values, axis=0)
        cells = [f"{m:.3f}" for m in mean[:5]] + [f"{m:.1f}" for m in mean[5:]]
        lines.append(f"| {n} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run, print, save."""
    parser = program.parser(__doc__)
    parser.add_argument("--study", default="demo")
    parser.add_argument("--sets", type=int, default=300)
    parser.add_argument("--size", type=int, help="layers of every set; by default of all sizes")
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--save", type=Path, help="an .npz for what was answered")
    parser.add_argument("--load", type=Path, help="such a file, in place of the models")
    args = parser.parse_args()
    torch.set_num_threads(1)
    definition = load_study(args.study)
    if args.load is None:
        device = pick_device(None)
        evaluator = ModelEvaluator(definition, device, pick_dtype(None, device))
        n_layers = evaluator.n_layers
    else:
        loaded = np.load(args.load)
        n_layers = int(loaded["n_layers"])
    budget = definition.layers
    space = LayerSpace(n_layers=n_layers, min_layers=budget.min, max_layers=budget.max)
    if args.load is None:
        rng = np.random.default_rng(0)
        drawn: dict[LayerSet, None] = {}
        while len(drawn) < min(args.sets, space.size):
            drawn[space.random(rng, args.size or space.random_size(rng))] = None
        sets = list(drawn)
        right, sure = answers(evaluator, sets)
    else:
        sets = [LayerSet.parse(text) for text in loaded["sets"]]
        right, sure = loaded["right"].astype(float), loaded["sure"].astype(float)
    if args.save is not None:
        texts = [str(layers) for layers in sets]
        np.savez_compressed(
            args.save, n_layers=n_layers, sets=texts, right=right.astype(bool), sure=sure
        )
    shares = 100 * right.mean(axis=1)
    of = f" of {args.size} layers" if args.size else ""
    text = (
        f"# Log-probabilities beside right and wrong\n\n{program.made_by(__file__)}: "
        f"{len(sets)} random layer sets{of} of study `{definition.name}`, {right.shape[1]} "
        f"questions; {shares.min():.1f} to {shares.max():.1f} % right. From a few questions, drawn "
        f"at random {args.draws} times, told by all the others: rank correlation, and share of "
        f"right answers.\n\n{table(sets, right, sure, space, args.draws)}\n"
    )
    stem = definition.name + (f"-{args.size}" if args.size else "")
    program.save(args.out, f"logprob-{stem}.md", text)


if __name__ == "__main__":
    main()
