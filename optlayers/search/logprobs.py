"""Log-probabilities of the right choice as a covariate of scores on few questions.

Right or wrong is one bit a question, and near guessing mostly luck; how likely the right choice was
ranks sets earlier there (benchmarks/search/logprob-smollm2.md). So both count, each in standard
deviations over the sets: the share of right answers in full, the log-probability as far as that
share is not reliable. Reliable is the part of its variance that the other half of the questions
confirms (Lord and Novick 1968, on parallel forms). It serves proposals alone: races, ranks and
reports go by right and wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from optlayers.trials.answers import Answers
from optlayers.trials.record import Halves, Record
from optlayers.trials.statistics import FloatArray

LEAST = 24  # sets without which nothing is told of their variance
# Rows are rounded to a millionth; what differs by less than this does not differ.
_ALIKE = 1e-5
# What contradict each other so far say nothing together: the rest would be rounding, made large.
_CONTRADICTION = 0.1
# A broken set is at most so many robust standard deviations away, or the others would look alike.
_FAR = 6.0


def sharpened(records: Iterable[Record]) -> dict[tuple[int, ...], float]:
    """Scores of sets, by their indices, adjusted by their log-probabilities.

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
    halves: Mapping[int, Halves],
    answers: Answers,
    begin: int,
    logs: FloatArray | None,
    weights: FloatArray | None = None,
) -> dict[int, Halves]:
    """`Record.halves` once the questions from `begin` on are answered.

    answers [n]: of all questions so far; logs [n - begin]: log-probabilities of the right choices
    from `begin` on; weights [n or more]: how much each question counts (None: all alike). Nothing
    is added without logs, where one is not finite or a half has no weight, or where the halves at
    `begin` are unknown. Halves beyond `begin` are dropped, unless the answers from the first on
    came without logs (in another precision).
    """
    if logs is None and begin == 0:
        return dict(halves)
    kept = {n: known for n, known in halves.items() if n <= begin}
    if logs is None or (begin and begin not in kept) or not np.isfinite(logs).all():
        return kept
    n = len(answers)
    counts = np.ones(n) if weights is None else np.asarray(weights[:n], dtype=np.float64)
    right, means = [], []
    for half in (0, 1):
        total = float(counts[half::2].sum())
        if total <= 0.0:
            return kept
        right.append(round(float((counts * answers)[half::2].sum()) / total, 6))
        before = kept[begin].logs[half] * float(counts[:begin][half::2].sum()) if begin else 0.0
        new = float((counts[begin:] * logs)[(begin + half) % 2 :: 2].sum())
        means.append(round((before + new) / total, 6))
    return {**kept, n: Halves((right[0], right[1]), (means[0], means[1]))}


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
