"""Racing: the test that says whether a layer set can still be among the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from optlayers.search.record import Record
from optlayers.search.statistics import (
    FloatArray,
    IntArray,
    StratifiedScore,
    Values,
    paired_difference,
    share_variance,
    upper_p,
)

# Contenders that have seen fewer further questions than this share of the prefix tell too little.
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


class _Leader(NamedTuple):
    """A contender that has gone further: by what it is chosen, and by what it is judged."""

    record: Record
    chosen_by: float
    score: float
    error: float
    weights: FloatArray | None


class Race:
    """Compares one candidate with contenders on the first `questions` questions.

    `level` is the chance, at this look, that a candidate whose true score equals or exceeds
    that of the `top_k`-th best contender is called beaten. Two tests, by what there is:

    With at least `top_k` contenders that have seen more questions, these lead. They went on
    because they were lucky on the prefix, so there they cannot be believed: only their answers
    since they last went on, which have chosen nobody, are held against the candidate's on the
    prefix. Who leads is told by the answers before. The candidate is beaten if each leader is
    better at `level` (an intersection-union test, Berger 1982: no correction for several leaders
    is due). Questions are in a shuffled, stratified order, so both parts are fair samples.

    Else all contenders on the same questions serve, paired with the candidate: it is beaten if at
    least `top_k` of M are better at `level` / (M - top_k + 1). A wrong call needs one false
    rejection among the at most M - top_k + 1 contenders that are not truly better (Bonferroni).

    Scores are stratified where there are strata. Contenders or candidates without answers are
    taken by their scores, as independent shares of right answers: valid but weaker.
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
        ahead = [leader for c in ready if (leader := self._leader(c)) is not None]
        ahead.sort(key=lambda leader: (-leader.chosen_by, leader.record.number))
        ready_sets = {c.layers.indices for c in ready}
        ahead_sets = {leader.record.layers.indices for leader in ahead}
        ranked: list[Record] = []
        found = []
        for candidate in candidates:
            mine = candidate.layers.indices
            count = len(ready) - (mine in ready_sets)
            if count < self.top_k:
                found.append(False)
            elif len(ahead) - (mine in ahead_sets) >= self.top_k:
                others = [a for a in ahead[: self.top_k + 1] if a.record.layers.indices != mine]
                found.append(self._all_lead(others[: self.top_k], candidate))
            else:
                if not ranked:
                    ranked = sorted(ready, key=lambda c: (-self._signed(c), c.number))
                strict = self.level / (count - self.top_k + 1)
                # Those that score highest reject soonest; the rest could hardly add to the count.
                most = 4 * self.top_k
                closest = [c for c in ranked[: most + 1] if c.layers.indices != mine][:most]
                better = sum(self._p_better(c, candidate) < strict for c in closest)
                found.append(better >= self.top_k)
        return found

    def _leader(self, record: Record) -> _Leader | None:
        """What tells of a contender beyond the prefix; None where that is too little."""
        n, total = self.questions, record.questions or 0
        # At its last stop before it was chosen to go on, by all that it had answered there.
        stop = max(n, *(step for step in record.intermediate if step < total), 0)
        if total - stop < n * _MIN_REST or record.score is None:
            return None
        answers, weights = record.answers, self._common(slice(0, n), slice(stop, total))
        if answers is not None and self.maximise and len(answers) >= total:
            if weights is not None and not weights.any():
                return None
            before, _ = self._estimate(answers[:stop], 0, weights)
            score, error = self._estimate(answers[stop:total], stop, weights)
        else:
            known = record.intermediate.get(stop)
            if known is None or not (0.0 <= known <= 1.0 and 0.0 <= record.score <= 1.0):
                return None
            before, score = known, (total * record.score - stop * known) / (total - stop)
            score = min(max(score, 0.0), 1.0)
            error = math.sqrt(share_variance(score, total - stop))
        # One of whom little is known since would make a dull test.
        chosen_by = (before if self.maximise else -before) - error
        return _Leader(record, chosen_by, score, error, weights)

    def _all_lead(self, leaders: Sequence[_Leader], candidate: Record) -> bool:
        """Whether each of them is better than the candidate at `level`."""
        n, answers = self.questions, candidate.answers
        sign = 1.0 if self.maximise else -1.0
        for leader in leaders:
            if answers is not None and self.maximise and len(answers) >= n:
                score, error = self._estimate(answers[:n], 0, leader.weights)
            else:
                known = self._score(candidate)
                if known is None or not 0.0 <= known <= 1.0:
                    # Not a share of right answers: nothing is known of its noise.
                    return False
                score, error = known, math.sqrt(share_variance(known, n))
            z = sign * (leader.score - score) / math.hypot(leader.error, error)
            if upper_p(z) >= self.level:
                return False
        return True

    def _common(self, first: slice, second: slice) -> FloatArray | None:
        """The weights of the subjects that both parts of the questions hold, 0 for the others."""
        if self.strata is None:
            return None
        weights = self._weights()
        assert weights is not None
        seen = [np.bincount(self.strata[part], minlength=weights.size) for part in (first, second)]
        return np.where((seen[0] > 0) & (seen[1] > 0), weights, 0.0)

    def _estimate(
        self, answers: Values, start: int, weights: FloatArray | None
    ) -> tuple[float, float]:
        """Stratified mean of the answers from question `start` on, and its standard error."""
        if self.strata is None:
            return StratifiedScore.plain(len(answers)).estimate(answers)
        strata = self.strata[start : start + len(answers)]
        return StratifiedScore(strata=strata, weights=weights).estimate(answers)

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
        difference = first - second if self.maximise else second - first
        return upper_p(difference / math.sqrt(share_variance(first, n) + share_variance(second, n)))
