"""Racing: the statistical test of whether a layer set can still be among the best."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from optlayers.errors import InputError
from optlayers.trials.answers import Answers
from optlayers.trials.record import Record
from optlayers.trials.statistics import (
    FloatArray,
    IntArray,
    StratifiedScore,
    paired_difference,
    separate_difference,
    share_variance,
    upper_p,
)

# A contender needs at least this share of the prefix in further questions to rank by them.
_MIN_REST = 0.2
# Contenders were selected at a rung if at least this share of those that reached it ended there. A
# race that ends sets only by mistake ends fewer.
_CHOSEN = 0.05


class _Rival(NamedTuple):
    """A contender, and the questions (`start` to `stop`) that it may be compared on.

    They are questions that did not select it. If it was selected at the candidate's `n` questions
    or later, these are the questions since then, which the candidate has not answered; else they
    are the last ones before `n`, which it has. `worth` ranks contenders by other questions (None:
    unknown).
    """

    record: Record
    start: int
    stop: int
    worth: float | None


class Race:
    """Compares one candidate with contenders on the first `questions` questions.

    `level` is the probability, at this look, that a candidate whose true score equals or exceeds
    that of the `top_k`-th best contender is called beaten.

    A contender that was selected by its answers was lucky on them, so only later answers count.
    Contenders were selected where others stopped: at numbers of questions where at least one in
    twenty of those that reached it ended. Since its last selection,

    - a contender has answered questions that the candidate has answered too: a paired comparison;
    - or it went on from the candidate's rung or a later one: its answers since then are compared
      with all answers of the candidate. Questions are shuffled and stratified, so both are fair
      samples.

    If at least `top_k` contenders can be ranked by answers other than those compared, then the
    candidate is beaten if each leader is better at `level` (an intersection-union test, Berger
    1982: it needs no correction for several leaders, and leaders ranked by other questions have no
    winner's curse). Else it is beaten if at least `top_k` of M contenders are better at `level` /
    (M - top_k + 1): a wrong call needs one false rejection among the at most M - top_k + 1
    contenders that are not truly better (Bonferroni).

    Scores are stratified where there are strata. Contenders or candidates without answers are
    compared by their scores, as independent shares of right answers: valid but weaker.
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
        if weights is None and strata is not None:
            # The subjects' shares of all questions.
            self.weights = np.bincount(strata).astype(np.float64)
        self.maximise = maximise

    def beaten(self, candidates: Sequence[Record], contenders: Sequence[Record]) -> list[bool]:
        """Whether each candidate is beaten; False with fewer than `top_k` contenders.

        `contenders` are of distinct layer sets; no candidate is compared with its own set. Raises
        `InputError` for more questions than there are strata.
        """
        n = self.questions
        ready = [c for c in contenders if c.questions is not None and c.questions >= n]
        if self.strata is not None:
            most = max([n, *(c.questions or 0 for c in ready)])
            if len(self.strata) < most:
                raise InputError(
                    f"question_strata: {len(self.strata)} for {most} questions; "
                    "give a subject for each"
                )
        choices = _choices(contenders)
        rivals = [self._rival(c, choices) for c in ready]
        ahead = [rival for rival in rivals if rival.worth is not None]
        ahead.sort(key=lambda rival: (-(rival.worth or 0.0), rival.record.number))
        all_sets = {rival.record.layers.indices for rival in rivals}
        ahead_sets = {rival.record.layers.indices for rival in ahead}
        ranked: list[_Rival] = []
        found = []
        for candidate in candidates:
            mine = candidate.layers.indices
            count = len(rivals) - (mine in all_sets)
            if count < self.top_k:
                found.append(False)
            elif len(ahead) - (mine in ahead_sets) >= self.top_k:
                leaders = _first(ahead, self.top_k, mine)
                found.append(all(self._p_better(r, candidate) < self.level for r in leaders))
            else:
                if not ranked:
                    ranked = sorted(
                        rivals, key=lambda r: (-self._signed(r.record), r.record.number)
                    )
                strict = self.level / (count - self.top_k + 1)
                # The highest scores reject first; the rest would rarely change the count.
                closest = _first(ranked, 4 * self.top_k, mine)
                better = sum(self._p_better(r, candidate) < strict for r in closest)
                found.append(better >= self.top_k)
        return found

    def _rival(self, record: Record, choices: Sequence[int]) -> _Rival:
        n, total = self.questions, record.questions or 0
        chosen = max((step for step in choices if step < total), default=0)
        if chosen < n:
            beyond = self._known(record, n, total) if total - n >= n * _MIN_REST else None
            return _Rival(record, chosen, n, self._worth(beyond))
        before, since = self._known(record, 0, chosen), self._known(record, chosen, total)
        worth = None
        if before is not None and since is not None and total - chosen >= n * _MIN_REST:
            # With few answers since then, the test would have little power.
            worth = self._worth((before[0], since[1]))
        return _Rival(record, chosen, total, worth)

    def _worth(self, part: tuple[float, float] | None) -> float | None:
        if part is None:
            return None
        return (part[0] if self.maximise else -part[0]) - part[1]

    def _p_better(self, rival: _Rival, candidate: Record) -> float:
        """One-sided p-value of the rival being better than the candidate."""
        n = self.questions
        first, second = slice(rival.start, rival.stop), slice(rival.start, n)
        if rival.stop > n:
            second = slice(0, n)
        a, b = self._answers(rival.record, first), self._answers(candidate, second)
        found: tuple[float, float] | None
        if a is None or b is None:
            found = self._by_scores(rival.record, first, candidate, second)
        elif rival.stop > n:
            theirs, mine = self._subjects(first), self._subjects(second)
            found = separate_difference(a, b, theirs, mine, self.weights)
        elif self._weighs(second):
            difference, error, _ = paired_difference(a, b, self._subjects(second), self.weights)
            found = difference, error
        else:
            found = None
        if found is None:
            return 1.0
        difference, error = found
        return upper_p((difference if self.maximise else -difference) / error)

    def _by_scores(
        self, contender: Record, first: slice, candidate: Record, second: slice
    ) -> tuple[float, float] | None:
        """The difference of two shares of right answers, and its error; None if unknown.

        The larger error of two, as in `separate_difference`.
        """
        theirs, mine = (
            self._part(record, part.start, part.stop)
            for record, part in ((contender, first), (candidate, second))
        )
        if theirs is None or mine is None:
            return None
        m, n = first.stop - first.start, second.stop - second.start
        pooled = share_variance((m * theirs[0] + n * mine[0]) / (m + n), m + n) * (m + n)
        variance = max(theirs[1] ** 2 + mine[1] ** 2, pooled * (1.0 / m + 1.0 / n))
        return theirs[0] - mine[0], math.sqrt(variance)

    def _answers(self, record: Record, part: slice) -> Answers | None:
        answers = record.answers
        if answers is None or not self.maximise or len(answers) < part.stop:
            return None
        return answers[part]

    def _subjects(self, part: slice) -> IntArray | None:
        return None if self.strata is None else self.strata[part]

    def _weighs(self, part: slice) -> bool:
        """Whether any subject of these questions has weight."""
        if self.strata is None or self.weights is None:
            return True
        return bool(self.weights[self.strata[part]].any())

    def _part(self, record: Record, start: int, stop: int) -> tuple[float, float] | None:
        """Score on the questions from `start` to `stop`, and its standard error; None if unknown.

        From the answers, or else from the scores at both ends if they are shares.
        """
        part = slice(start, stop)
        answers = self._answers(record, part)
        if answers is not None:
            if self.strata is None:
                return StratifiedScore.plain(len(answers)).estimate(answers)
            if not self._weighs(part):
                return None
            plan = StratifiedScore(strata=self.strata[part], weights=self.weights)
            return plan.estimate(answers)
        return _between(record, start, stop)

    def _known(self, record: Record, start: int, stop: int) -> tuple[float, float] | None:
        """As `_part`, from the scores if both ends were reported: fast enough for thousands."""
        known = record.intermediate
        if (start in known or not start) and (stop in known or stop == record.questions):
            return _between(record, start, stop)
        return self._part(record, start, stop)

    def _signed(self, record: Record) -> float:
        part = self._part(record, 0, self.questions)
        if part is None:
            return -math.inf
        return part[0] if self.maximise else -part[0]


def _between(record: Record, start: int, stop: int) -> tuple[float, float] | None:
    """Score between two numbers of questions and its error, from the scores at both.

    None if these are not shares of right answers: their noise is unknown.
    """
    known = record.intermediate
    last = known.get(stop, record.score)  # or the closest known score
    before = known.get(start) if start else 0.0
    if last is None or before is None or not (0.0 <= last <= 1.0 and 0.0 <= before <= 1.0):
        return None
    # Questions are stratified, so subjects have the same weights in both parts.
    share = min(max((stop * last - start * before) / (stop - start), 0.0), 1.0)
    return share, math.sqrt(share_variance(share, stop - start))


def _choices(contenders: Sequence[Record]) -> list[int]:
    """Numbers of questions at which contenders were selected: some ended, others went on."""
    reached = np.sort([c.questions for c in contenders if c.questions is not None])
    ended = Counter(c.questions for c in contenders if c.questions is not None and not c.is_claimed)
    return [
        step
        for step, count in ended.items()
        if count >= _CHOSEN * (len(reached) - np.searchsorted(reached, step))
    ]


def _first(ranked: Sequence[_Rival], count: int, other_than: tuple[int, ...]) -> list[_Rival]:
    """The first `count` rivals of layer sets other than that one."""
    head = [rival for rival in ranked[: count + 1] if rival.record.layers.indices != other_than]
    return head[:count]
