"""Racing: the test that says whether a layer set can still be among the best."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from optlayers.search.record import Record
from optlayers.search.statistics import (
    FloatArray,
    IntArray,
    StratifiedScore,
    Values,
    paired_difference,
    upper_p,
)

# A contender is chosen by questions beyond the prefix only where they are at least this share
# of the prefix: fewer would choose by luck.
_MIN_REST = 0.2
# A race begins with these parts of the fast questions, as long as so many are left.
_PARTS, _LEAST = (4, 2), 12


def rungs(n_fast: int, n_full: int) -> list[int]:
    """Numbers of questions after which a race is looked at: n_fast / 4, doubled, ..., n_full.

    n_fast itself is one; it comes first where a quarter or a half of it would be too few to tell.

    A last doubling that leaves less than half of itself to n_full is kept all the same.
    """
    fast = max(1, min(n_fast, n_full))
    steps = [fast // part for part in _PARTS if fast // part >= _LEAST]
    step = fast
    while step < n_full:
        steps.append(step)
        step *= 2
    return [*steps, n_full]


class Race:
    """Compares one candidate with contenders on the first `questions` questions.

    `level` is the chance, at this look, that a candidate whose true score equals or exceeds
    that of the `top_k`-th best contender is called beaten. Two tests, by what there is:

    With at least `top_k` contenders that have seen more questions, the leaders are chosen by
    their answers *beyond* the prefix, and the candidate is beaten if each leader is better on
    the prefix at `level` (an intersection-union test, Berger 1982: no correction for several
    leaders is due, and choosing them by other questions leaves no winner's curse).

    Else contenders of the same questions serve: it is beaten if at least `top_k` of M are
    better at `level` / (M - top_k + 1). A wrong call needs one false rejection among the
    at most M - top_k + 1 contenders that are not truly better (Bonferroni).

    That holds for contenders that were not chosen by this very prefix. Where only the best part of
    a large crowd went on, they were, and the error is larger (docs/search.md, "Races").

    Where both have answers the test is paired and stratified; else it takes the scores as
    independent shares of right answers, which is valid but weaker.
    """

    def __init__(
        self,
        *,
        questions: int,
        top_k: int,
        level: float,
        strata: IntArray | None = None,
        weights: FloatArray | None = None,
        maximise: bool = True,
    ) -> None:
        self.questions = questions
        self.top_k = top_k
        self.level = level
        self.strata = strata
        self.weights = weights
        self.maximise = maximise

    def beaten(self, candidates: Sequence[Record], contenders: Sequence[Record]) -> list[bool]:
        """Whether each candidate is out; False with fewer than `top_k` contenders.

        `contenders` are of distinct layer sets; no candidate meets one of its own.
        """
        n = self.questions
        ready = [c for c in contenders if c.questions is not None and c.questions >= n]
        further = [(rest, c) for c in ready if (rest := self._rest_score(c)) is not None]
        further.sort(key=lambda pair: (-pair[0], pair[1].number))
        scored: list[tuple[float, Record]] = []
        ready_sets = {c.layers.indices for c in ready}
        further_sets = {c.layers.indices for _, c in further}
        found = []
        for candidate in candidates:
            mine = candidate.layers.indices
            count = len(ready) - (mine in ready_sets)
            if count < self.top_k:
                found.append(False)
            elif len(further) - (mine in further_sets) >= self.top_k:
                leaders = _first(further, self.top_k, mine)
                found.append(all(self._p_better(c, candidate) < self.level for c in leaders))
            else:
                if not scored:
                    scored = [(self._signed(c), c) for c in ready]
                    scored.sort(key=lambda pair: (-pair[0], pair[1].number))
                strict = self.level / (count - self.top_k + 1)
                # Those that score highest reject soonest; the rest could hardly add to the count.
                closest = _first(scored, 4 * self.top_k, mine)
                better = sum(self._p_better(c, candidate) < strict for c in closest)
                found.append(better >= self.top_k)
        return found

    def _rest_score(self, record: Record) -> float | None:
        """The score on the questions beyond the prefix, or None where there are too few."""
        n, total = self.questions, record.questions or 0
        if total < n * (1.0 + _MIN_REST) or record.score is None:
            return None
        sign = 1.0 if self.maximise else -1.0
        # Questions are stratified, so the subjects' weights are alike in both parts.
        here = record.intermediate.get(n)
        if here is not None:
            return sign * (total * record.score - n * here) / (total - n)
        answers = record.answers
        if answers is not None and self.maximise:
            strata = None if self.strata is None else self.strata[n:]
            return self._mean(answers[n:], strata)
        return sign * record.score

    def _score(self, record: Record) -> float | None:
        """The score on the prefix, or the closest that is known."""
        answers = record.answers
        if answers is not None and len(answers) >= self.questions:
            return self._mean(answers[: self.questions], self.strata)
        return record.intermediate.get(self.questions, record.score)

    def _signed(self, record: Record) -> float:
        score = self._score(record)
        if score is None or not math.isfinite(score):
            return -math.inf
        return score if self.maximise else -score

    def _mean(self, answers: Values, strata: IntArray | None) -> float:
        if strata is None:
            return float(np.mean(answers))
        return StratifiedScore(strata=strata, weights=self._weights()).score(answers)

    def _weights(self) -> FloatArray | None:
        """The subjects' weights; without any, their shares of all questions."""
        if self.weights is not None or self.strata is None:
            return self.weights
        return np.bincount(self.strata).astype(np.float64)

    def _p_better(self, contender: Record, candidate: Record) -> float:
        """One-sided p-value of the contender being better than the candidate."""
        n = self.questions
        a, b = contender.answers, candidate.answers
        if self.maximise and a is not None and b is not None and min(len(a), len(b)) >= n:
            pair = paired_difference(a[:n], b[:n], self.strata, self._weights())
            return upper_p(pair.difference / pair.standard_error)
        first, second = self._score(contender), self._score(candidate)
        if first is None or second is None:
            return 1.0
        if not (0.0 <= first <= 1.0 and 0.0 <= second <= 1.0):
            # Not shares of right answers: nothing is known of their noise.
            return 1.0
        # One right and one wrong answer more each keep the variance from being zero.
        variance = 0.0
        for share in (first, second):
            steady = (share * n + 1.0) / (n + 2.0)
            variance += steady * (1.0 - steady) / n
        difference = first - second if self.maximise else second - first
        return upper_p(difference / math.sqrt(variance))


def _first(
    ranked: Sequence[tuple[float, Record]], count: int, other_than: tuple[int, ...]
) -> list[Record]:
    """The first `count` records of layer sets other than that one."""
    head = [record for _, record in ranked[: count + 1] if record.layers.indices != other_than]
    return head[:count]
