"""How often a race calls a set beaten: wrongly, one as good as all others; rightly, a poor one.

    python -m benchmarks.search.racing --runs 1000 --out benchmarks/search

100 sets of equal skill answer the first rung; from each rung, the share of them with the best
answers so far continues. Then a candidate runs that is as good as they are (calling it beaten is an
error) or 12 points worse (calling it beaten is right). Questions differ in difficulty, in the same
way for all sets; `right` is the mean share of right answers. Rules:

`optlayers`: the rule of the package. `paired`: the leader, chosen by its answers beyond the rung,
is compared with the candidate on the questions of the rung. `corrected`: all contenders are
compared in this way, with a Bonferroni correction for their number.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from optuna.trial import TrialState

from benchmarks.lib import program
from optlayers.layerset import LayerSet
from optlayers.search import rungs
from optlayers.search.racing import Race
from optlayers.trials.answers import encode_answers
from optlayers.trials.record import Record
from optlayers.trials.statistics import paired_difference, upper_p

CROWD, ALPHA, WORSE = 100, 0.1, 0.12
SHARES = (1.0, 0.5, 0.3, 0.1)
QUESTIONS = ((48, 192), (96, 1000), (570, 2850))
TOP = (1, 3)
# Probability of a right answer, Beta(a, b) over the questions: means of .6, .25 and .1.
CHANCES = ((3.0, 2.0), (1.0, 3.0), (0.5, 4.5))
Rule = Callable[[Record, Sequence[Record], int, float, int], bool]


def record(number: int, answers: NDArray[np.bool_], steps: Sequence[int]) -> Record:
    """A set with these answers, and its score at each rung."""
    return Record(
        number=number,
        state=TrialState.PRUNED,
        layers=LayerSet.of(number),
        questions=len(answers),
        score=float(answers.mean()),
        packed_answers=encode_answers(answers),
        intermediate={n: float(answers[:n].mean()) for n in steps if n <= len(answers)},
    )


def crowd(
    rng: np.random.Generator,
    chance: NDArray[np.float64],
    share: float,
    steps: Sequence[int],
    size: int = CROWD,
) -> list[Record]:
    """Sets of equal skill; from each rung, the share with the best answers continues."""
    answers = rng.random((size, steps[-1])) < chance
    going, stops = np.arange(size), np.full(size, steps[0])
    for here, following in pairwise(steps):
        by_score = np.argsort(-answers[going, :here].mean(axis=1), kind="stable")
        going = going[by_score[: max(1, round(share * len(going)))]]
        stops[going] = following
    return [record(i, a[:n], steps) for i, (a, n) in enumerate(zip(answers, stops, strict=True))]


def optlayers(
    candidate: Record, contenders: Sequence[Record], n: int, level: float, top: int
) -> bool:
    """The rule of the package."""
    return Race(questions=n, top_k=top, level=level).beaten([candidate], contenders) == [True]


def _better(contender: Record, candidate: Record, n: int) -> float:
    """One-sided p-value on the first n questions, paired."""
    assert contender.answers is not None
    assert candidate.answers is not None
    found = paired_difference(contender.answers[:n], candidate.answers[:n])
    return upper_p(found.difference / found.standard_error)


def paired(candidate: Record, contenders: Sequence[Record], n: int, level: float, top: int) -> bool:
    """The leaders by their answers beyond n questions, against the candidate on the first n."""
    beyond = [
        (float(c.answers[n:].mean()), -c.number, c)
        for c in contenders
        if c.answers is not None and len(c.answers) >= 1.2 * n
    ]
    if len(beyond) < top:
        return corrected(candidate, contenders, n, level, top)
    leaders = [c for _, _, c in sorted(beyond, reverse=True)[:top]]
    return all(_better(c, candidate, n) < level for c in leaders)


def corrected(
    candidate: Record, contenders: Sequence[Record], n: int, level: float, top: int
) -> bool:
    """All contenders on the first n questions, at the level divided by their number."""
    ready = [c for c in contenders if (c.questions or 0) >= n]
    strict = level / max(1, len(ready) - top + 1)
    better = [c for c in ready if _better(c, candidate, n) < strict]
    return len(better) >= top


RULES: dict[str, Rule] = {"optlayers": optlayers, "paired": paired, "corrected": corrected}


def run(job: tuple[tuple[float, float], tuple[int, int], float, int, int]) -> list[float]:
    """Of each rule: the share of good newcomers, and of poor ones, that it called beaten."""
    (a, b), (n_fast, n_full), share, top, runs = job
    rng = np.random.default_rng(0)
    steps = rungs(n_fast, n_full)
    level = ALPHA / (len(steps) - 1)
    out = np.zeros((len(RULES), 2))
    for _ in range(runs):
        chance = rng.beta(a, b, n_full)
        contenders = crowd(rng, chance, share, steps)
        for column, loss in enumerate((0.0, WORSE)):
            answers = rng.random(n_full) < chance - loss
            newcomer = {n: record(CROWD, answers[:n], steps) for n in steps[:-1]}
            for row, rule in enumerate(RULES.values()):
                out[row, column] += any(
                    rule(candidate, contenders, n, level, top) for n, candidate in newcomer.items()
                )
    return [float(v) for v in (out / runs).ravel()]


def main() -> None:
    """Run, print, save."""
    parser = program.parser(__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    cases = [
        case
        for case in itertools.product(CHANCES, QUESTIONS, SHARES, TOP)
        if case[0] == CHANCES[0] or case[3] == TOP[0]
    ]
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        found = pool.map(run, [(*case, args.runs) for case in cases], chunksize=1)
    names = [f"{rule}: {what}" for rule in RULES for what in ("error", "poor out")]
    rows: list[list[object]] = []
    for ((a, b), (n_fast, n_full), share, top), row in zip(cases, found, strict=True):
        steps = ", ".join(str(n) for n in rungs(n_fast, n_full))
        cells = [f"{v:.3f}" for v in row]
        rows.append([f"{a / (a + b):.2f}", steps, f"{share:.0%}", top, *cells])
    made = program.table(["right", "rungs", "goes on", "best", *names], rows)
    text = (
        f"# Races\n\n{program.made_by(__file__)}: of "
        f"{args.runs} newcomers to a crowd of {CROWD} sets, the share called beaten, over all "
        f"rungs, at a stated error of {ALPHA}. `error`: newcomers as good as every one of the "
        f"crowd, who answer so many right as `right` says; `poor out`: newcomers "
        f"{100 * WORSE:.0f} points worse. From each rung the best "
        "part of the crowd goes on by its answers so far. Races are for the best place, or the "
        "best three. `optlayers`: as built. `paired`: the leader, chosen by its answers beyond "
        "the rung, against the newcomer on the questions of the rung. `corrected`: all contenders "
        f"there, with Bonferroni's correction.\n\n{made}\n"
    )
    program.save(args.out, "racing.md", text)


if __name__ == "__main__":
    main()
