"""What the log-probability of the right choice adds to a score on few questions.

Right or wrong is one bit a question, and near guessing mostly luck; how likely the right choice was
ranks sets earlier there (benchmarks/logprob-smollm2.md). So both count, each in standard deviations
over the sets: the share of right answers in full, the log-probability as far as that share is not
reliable. Reliable is the part of its variance that the other half of the questions confirms (Lord
and Novick 1968, on parallel forms). It serves proposals alone: races, ranks and reports go by right
and wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from optlayers.search.record import Answers, Record
from optlayers.search.statistics import FloatArray

Row = list[float]
LEAST = 24  # sets without which nothing is told of their variance


def sharpened(records: Iterable[Record]) -> dict[tuple[int, ...], float]:
    """Scores of sets, by their indices, with what their log-probabilities add.

    records: one of each set. Only scores change whose log-probabilities are of the same questions,
    at numbers of questions that at least `LEAST` sets have answered. Mean and spread of the scores
    there stay as they are.
    """
    known = [record for record in records if record.halves]
    found: dict[tuple[int, ...], float] = {}
    for questions in {r.questions for r in known if r.questions in r.halves}:
        # Sets that went on were here as well: without them the others would look alike.
        here = [r for r in known if questions in r.halves]
        if len(here) < LEAST:
            continue
        halves = np.array([r.halves[questions] for r in here if questions is not None])
        added = _added(halves[:, 0], halves[:, 1])
        for record, more in zip(here, added.tolist(), strict=True):
            if record.questions == questions and record.score is not None:
                found[record.layers.indices] = min(1.0, max(0.0, record.score + more))
    return found


def note_rung(
    rows: Sequence[Row], answers: Answers, begin: int, logs: FloatArray | None
) -> list[Row]:
    """The rows of `keys.HALVES` once the questions from `begin` on are answered.

    answers [n]: of all questions so far; logs [n - begin]: log-probabilities of the right choices
    from `begin` on. Without them, or where those before are unknown, the rows stay as they are.
    """
    rows = [row for row in rows if row[0] <= begin]
    if logs is None or (begin and (not rows or rows[-1][0] != begin)):
        return rows
    row: Row = [len(answers)]
    row += [round(float(np.mean(answers[half::2])), 6) for half in (0, 1)]
    for half in (0, 1):
        before = (begin + 1 - half) // 2
        total = rows[-1][3 + half] * before if begin else 0.0
        new = logs[(begin + half) % 2 :: 2]
        row.append(round((total + float(new.sum())) / (before + len(new)), 6))
    return [*rows, row]


def _added(right: FloatArray, logs: FloatArray) -> FloatArray:
    """What to add to shares of right answers [n]; right, logs [n, 2]: means of two halves."""
    share, log = right.mean(axis=1), logs.mean(axis=1)
    spread, log_spread = float(share.std()), float(log.std())
    if spread == 0.0 or log_spread == 0.0:
        return np.zeros(len(share))
    confirmed = float(np.cov(right.T, ddof=0)[0, 1])
    doubt = 1.0 - float(np.clip(confirmed / spread**2, 0.0, 1.0))
    own = (share - share.mean()) / spread
    both = own + doubt * (log - log.mean()) / log_spread
    return np.asarray(spread * (both / float(both.std()) - own))
