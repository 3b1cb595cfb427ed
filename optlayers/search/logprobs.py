"""What the log-probability of the right choice adds to a score on few questions.

Right or wrong is one bit a question, and near guessing mostly luck; how likely the right choice was
ranks sets earlier there (benchmarks/search/logprob-smollm2.md). So both count, each in standard
deviations over the sets: the share of right answers in full, the log-probability as far as that
share is not reliable. Reliable is the part of its variance that the other half of the questions
confirms (Lord and Novick 1968, on parallel forms). It serves proposals alone: races, ranks and
reports go by right and wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from optlayers.trials.record import Answers, Record
from optlayers.trials.statistics import FloatArray

Row = list[float]
LEAST = 24  # sets without which nothing is told of their variance
# Rows are rounded to a millionth; what differs by less than this does not differ.
_ALIKE = 1e-5
# What contradict each other so far say nothing together: the rest would be rounding, made large.
_CONTRADICTION = 0.1
# A broken set is at most so many robust standard deviations away, or the others would look alike.
_FAR = 6.0


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
    rows: Sequence[Row],
    answers: Answers,
    begin: int,
    logs: FloatArray | None,
    weights: FloatArray | None = None,
) -> list[Row]:
    """The rows of `keys.HALVES` once the questions from `begin` on are answered.

    answers [n]: of all questions so far; logs [n - begin]: log-probabilities of the right choices
    from `begin` on; weights [n or more]: what each question counts (without: all alike). Without
    logs, with one that is not finite, with a half that counts nothing, or where those before are
    unknown, no row is added. Asked anew from the first on without logs (in another precision), the
    rows stay as they are.
    """
    if logs is None and begin == 0:
        return list(rows)
    rows = [row for row in rows if row[0] <= begin]
    known = begin == 0 or (bool(rows) and rows[-1][0] == begin)
    if logs is None or not known or not np.isfinite(logs).all():
        return rows
    n = len(answers)
    counts = np.ones(n) if weights is None else np.asarray(weights[:n], dtype=np.float64)
    row: Row = [n]
    means: Row = []
    for half in (0, 1):
        all_of_it = float(counts[half::2].sum())
        if all_of_it <= 0.0:
            return rows
        row.append(round(float((counts * answers)[half::2].sum()) / all_of_it, 6))
        before = rows[-1][3 + half] * float(counts[:begin][half::2].sum()) if begin else 0.0
        new = float((counts[begin:] * logs)[(begin + half) % 2 :: 2].sum())
        means.append(round((before + new) / all_of_it, 6))
    return [*rows, [*row, *means]]


def _added(right: FloatArray, logs: FloatArray) -> FloatArray:
    """What to add to shares of right answers [n]; right, logs [n, 2]: means of two halves."""
    share, log = right.mean(axis=1), _tamed(logs.mean(axis=1))
    spread, log_spread = float(share.std()), float(log.std())
    if min(spread, log_spread) < _ALIKE:
        return np.zeros(len(share))
    confirmed = float(np.cov(right.T, ddof=0)[0, 1])
    doubt = 1.0 - float(np.clip(confirmed / spread**2, 0.0, 1.0))
    own = (share - share.mean()) / spread
    both = own + doubt * (log - log.mean()) / log_spread
    width = float(both.std())
    if width < _CONTRADICTION:
        return np.zeros(len(share))
    return np.asarray(spread * (both / width - own))


def _tamed(logs: FloatArray) -> FloatArray:
    """Means of log-probabilities [n], none further from the median than `_FAR` says."""
    low, middle, high = np.quantile(logs, [0.25, 0.5, 0.75])
    # Of a normal distribution, 1.35 standard deviations lie between the quartiles.
    reach = _FAR * (high - low) / 1.35
    return np.clip(logs, middle - reach, middle + reach) if reach > 0.0 else logs
