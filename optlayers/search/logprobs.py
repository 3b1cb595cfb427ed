"""Log-probabilities of the right choice, which adjust scores on few questions.

A right or wrong answer is one bit, and near chance level mostly luck. The log-probability of the
right choice ranks layer sets earlier (benchmarks/search/logprob-smollm2.md). An adjusted score is
the share of right answers plus the log-probability, both standardised over the sets; the
log-probability has weight 1 - r, where r is the reliability of the share: the part of its variance
that two halves of the questions have in common (Lord and Novick 1968, on parallel forms). Only
proposals use adjusted scores; races, ranks and reports count right answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from optlayers.trials.answers import Answers
from optlayers.trials.record import Halves, Record
from optlayers.trials.statistics import FloatArray

LEAST = 24  # sets needed to estimate variances
# Stored means are rounded to a millionth: smaller spreads than this are none.
_ALIKE = 1e-5
# If shares and log-probabilities cancel to less than this spread, nothing is adjusted.
_CONTRADICTION = 0.1
# Outliers are clipped at so many robust standard deviations, or all other sets would look alike.
_FAR = 6.0


def adjusted_scores(records: Iterable[Record]) -> dict[tuple[int, ...], float]:
    """Scores of sets, by their indices, adjusted by their log-probabilities.

    records: one per set. A score changes if its log-probabilities cover the same questions, and at
    least `LEAST` sets have answered as many. The mean and the spread of these scores do not change.
    """
    known = [record for record in records if record.halves]
    found: dict[tuple[int, ...], float] = {}
    for questions in {r.questions for r in known if r.questions in r.halves}:
        # Sets that went on have answered these questions too; without them the spread is too small.
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
    """The adjustments of shares of right answers [n]; right, logs [n, 2]: means of two halves."""
    share, log = right.mean(axis=1), _clipped(logs.mean(axis=1))
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


def _clipped(logs: FloatArray) -> FloatArray:
    """Means of log-probabilities [n], clipped at `_FAR` robust deviations from the median."""
    low, middle, high = np.quantile(logs, [0.25, 0.5, 0.75])
    # The quartiles of a normal distribution are 1.35 standard deviations apart.
    reach = _FAR * (high - low) / 1.35
    return np.clip(logs, middle - reach, middle + reach) if reach > 0.0 else logs
