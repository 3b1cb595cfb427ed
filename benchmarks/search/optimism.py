"""How much the best of many flatters itself: the optimism of a search's winner, on the demo.

    python -m benchmarks.search.optimism --out benchmarks/search

From the recorded answers of all layer sets of the demo: draw a number of sets, score them on some
of the questions, take the best, and score that one on the questions left out.
"""

from __future__ import annotations

import numpy as np

from benchmarks.lib import program
from benchmarks.lib.landscapes import recorded
from benchmarks.lib.program import LANDSCAPE
from optlayers.trials.statistics import FloatArray, StratifiedScore

SETS, QUESTIONS = (16, 64, 256, 1024), (24, 48, 96, 144)


def main() -> None:
    """Run, print, save."""
    parser = program.parser(__doc__)
    parser.add_argument("--runs", type=int, default=400)
    args = parser.parse_args()
    known = recorded(LANDSCAPE)
    rng = np.random.default_rng(0)
    n_sets, n_full = known.answers.shape
    found: dict[tuple[str, int, int], list[float]] = {}
    # Near the top many sets are alike, and there luck decides: the best one and those that are far
    # above the rest are left out for the second half of the table.
    order = np.argsort(-known.scores)
    crowded = order[int(0.1 * n_sets) :]
    for _ in range(args.runs):
        shuffled = rng.permutation(n_full)
        for questions in QUESTIONS:
            mine, rest = shuffled[:questions], shuffled[questions:]
            seen = known.answers[:, mine].mean(axis=1)
            unseen = known.answers[:, rest].mean(axis=1)
            for count in SETS:
                for name, pool in (("all", np.arange(n_sets)), ("crowded", crowded)):
                    drawn = rng.choice(pool, count, replace=False)
                    best = drawn[np.argmax(seen[drawn])]
                    found.setdefault((name, questions, count), []).append(
                        float(seen[best] - unseen[best])
                    )
    text = (
        f"# Optimism\n\n{program.made_by(__file__)}: score of the winner on the questions "
        "that chose it, less its score on the demo's other questions, in points; mean of "
        f"{args.runs} draws (standard error in brackets).\n"
    )
    titles = {
        "all": "Winners of all sets",
        "crowded": "Without the best tenth of the sets, where none stands out",
    }
    for name, title in titles.items():
        rows = [
            [questions, *(_cell(np.array(found[name, questions, count])) for count in SETS)]
            for questions in QUESTIONS
        ]
        heads = ["questions", *(f"best of {count}" for count in SETS)]
        text += f"\n{title}:\n\n{program.table(heads, rows)}\n"
    interval = StratifiedScore.plain(48).interval(np.arange(48) < 36)
    text += (
        "\nFor scale: a single score of 75 % on 48 questions has a 95 % interval of "
        f"{100 * interval.ci_low:.0f} to {100 * interval.ci_high:.0f} %.\n"
    )
    program.save(args.out, "optimism.md", text)


def _cell(values: FloatArray) -> str:
    return f"{100 * values.mean():+.1f} ({100 * values.std(ddof=1) / len(values) ** 0.5:.1f})"


if __name__ == "__main__":
    main()
