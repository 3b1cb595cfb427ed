"""Scores of right/wrong answers: stratified means, intervals, paired tests, shrinkage."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.integer]
FloatArray = npt.NDArray[np.floating]
# Right or wrong, bool; or values in [0, 1], float, where a study has other metrics.
Values = npt.NDArray[Any]

# 97.5 % point of the standard normal distribution.
Z95 = 1.959963984540054

# Answers that a subject is thought to have seen before its own: steadies subjects with few.
_BORROWED = 2.0
_LEAST = 1e-9


class ScoreInterval(NamedTuple):
    """A score with its 95 % interval, all within [0, 1]."""

    score: float
    ci_low: float
    ci_high: float


class PairedDifference(NamedTuple):
    """The score of a minus the score of b on the same questions, and how sure it is."""

    difference: float
    standard_error: float
    p_value: float


class StratifiedScore:
    """Score of a prefix of the questions: sum over subjects of weight times mean.

    `strata`, int [N], is the subject of each question in the order of the study; `weights`,
    float [S], are the subjects' weights (any positive scale; without: the share of each
    subject among all N questions). Raises `ValueError` where they do not fit each other.
    """

    def __init__(self, *, strata: IntArray, weights: FloatArray | None = None) -> None:
        self.strata = np.asarray(strata, dtype=np.intp)
        if self.strata.size and self.strata.min() < 0:
            raise ValueError("strata: a subject index is 0 or more")
        n_subjects = int(self.strata.max()) + 1 if self.strata.size else 0
        if weights is None:
            weights = np.bincount(self.strata, minlength=n_subjects).astype(np.float64)
        self.weights = np.asarray(weights, dtype=np.float64)
        if self.weights.size < n_subjects:
            raise ValueError(f"weights: {self.weights.size} for {n_subjects} subjects")
        if not (np.isfinite(self.weights).all() and (self.weights >= 0).all()):
            raise ValueError("weights: a weight is a finite number of 0 or more")

    @classmethod
    def plain(cls, questions: int) -> StratifiedScore:
        """One subject of that many questions: the score is the mean."""
        return cls(strata=np.zeros(questions, dtype=np.intp))

    def score(self, answers: Values) -> float:
        """The score alone; see `interval`."""
        count, right, weight = self._subjects(answers)
        return float(np.sum(weight * right / count))

    def interval(self, answers: Values) -> ScoreInterval:
        """Score and 95 % interval of `answers`, bool [n], the first n questions.

        The weights are renormalised over the subjects seen. The interval is Wilson's (1927) at
        the effective sample size n_eff = p (1 - p) / V, with V = sum_s w_s^2 p_s (1 - p_s) / n_s
        the stratified variance. In V and n_eff (not in the score) each subject's mean is drawn
        toward the overall mean by two answers, and that toward one half by one right and one
        wrong, so V is never zero and the interval never of zero width. The questions are
        taken as a sample of a larger set (no finite-population correction). Raises
        `ValueError` for no answers, or more than there are questions.
        """
        if np.asarray(answers).dtype != np.bool_:
            return self._interval_of_values(answers)
        score, centre_p, variance = self._steady(answers)
        n_eff = centre_p * (1.0 - centre_p) / variance
        z2 = Z95**2
        scale = 1.0 + z2 / n_eff
        centre = (score + z2 / (2.0 * n_eff)) / scale
        half = (
            Z95 * math.sqrt(max(score * (1.0 - score), 0.0) / n_eff + z2 / (4.0 * n_eff**2)) / scale
        )
        low, high = max(0.0, centre - half), min(1.0, centre + half)
        # Rounding must not put the score outside its own interval at 0 and 1.
        return ScoreInterval(score, min(low, score), max(high, score))

    def estimate(self, answers: Values) -> tuple[float, float]:
        """The score and its standard error, never zero: the square root of V of `interval`."""
        if np.asarray(answers).dtype != np.bool_:
            score, error = self._mean_and_error(answers)
            return score, max(error, _LEAST)
        score, _, variance = self._steady(answers)
        return score, math.sqrt(variance)

    def _steady(self, answers: Values) -> tuple[float, float, float]:
        """Score, the mean drawn toward one half, and the variance of right answers, bool [n]."""
        count, right, weight = self._subjects(answers)
        overall = (right.sum() + 1.0) / (count.sum() + 2.0)
        steady = (right + _BORROWED * overall) / (count + _BORROWED)
        variance = float(np.sum(weight**2 * steady * (1.0 - steady) / count))
        return float(np.sum(weight * right / count)), float(np.sum(weight * steady)), variance

    def _interval_of_values(self, values: Values) -> ScoreInterval:
        """The same of values in [0, 1]: the normal interval, cut to where values lie."""
        score, error = self._mean_and_error(values)
        half = Z95 * error
        return ScoreInterval(
            score, min(score, max(0.0, score - half)), max(score, min(1.0, score + half))
        )

    def _mean_and_error(self, values: Values) -> tuple[float, float]:
        """The stratified mean of values, float [n], and its standard error.

        The variance of a subject is drawn toward the pooled one by two values, and that toward
        the overall one; of a single value nothing is known, so it counts as wide.
        """
        count, total, weight = self._subjects(values)
        _, squares, _ = self._subjects(np.square(values))
        mean, n = total / count, len(values)
        within = np.maximum(squares - count * mean**2, 0.0)
        overall = float(np.var(values, ddof=1)) if n > 1 else 0.25
        freedom = count.sum() - count.size
        pooled = (within.sum() + _BORROWED * overall) / (freedom + _BORROWED)
        variance = (within + _BORROWED * pooled) / (count - 1.0 + _BORROWED)
        error = math.sqrt(float(np.sum(weight**2 * variance / count)))
        return float(np.sum(weight * mean)), error

    def _subjects(self, answers: Values) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Of each subject seen: questions, right answers, weight (sum 1), float [S']."""
        n = len(answers)
        if not 0 < n <= self.strata.size:
            raise ValueError(f"answers: {n} of {self.strata.size} questions; expected 1 or more")
        strata = self.strata[:n]
        size = self.weights.size
        count = np.bincount(strata, minlength=size).astype(np.float64)
        right: FloatArray = np.bincount(
            strata, weights=np.asarray(answers, np.float64), minlength=size
        ).astype(np.float64)
        seen = (count > 0) & (self.weights > 0)
        if not seen.any():
            raise ValueError("weights: every subject seen has weight 0")
        weight = self.weights[seen]
        return count[seen], right[seen], weight / weight.sum()


def paired_difference(
    a: Values,
    b: Values,
    strata: IntArray | None = None,
    weights: FloatArray | None = None,
) -> PairedDifference:
    """Score of a minus score of b on their common prefix, standard error, two-sided p-value.

    `a`, `b`: bool [n], [m]; the first min(n, m) answers of each count. Without `strata` all
    questions are one subject. The variance is sum_s w_s^2 v_s / n_s, with v_s the sample
    variance of the differences in subject s, drawn toward the pooled one by two degrees of
    freedom. One discordant question more than was seen is counted, spread over the subjects by
    size: it keeps the normal p-value from overstating a handful of them, and makes identical
    answers give a difference of 0 at p = 1. Values in [0, 1] that are not all 0 or 1 are
    compared by their differences alone. Raises `ValueError` for no common question.
    """
    n = min(len(a), len(b))
    plan = (
        StratifiedScore.plain(n)
        if strata is None
        else StratifiedScore(strata=strata, weights=weights)
    )
    first, second = np.asarray(a[:n]), np.asarray(b[:n])
    if first.dtype != np.bool_ or second.dtype != np.bool_:
        gap = first.astype(np.float64) - second.astype(np.float64)
        difference, error = plan._mean_and_error(gap)
        # Equal answers have no noise to measure by, and p = 1.
        error = max(error, _LEAST)
        return PairedDifference(difference, error, two_sided_p(difference / error))
    count, right_a, weight = plan._subjects(first)
    _, right_b, _ = plan._subjects(second)
    _, discordant, _ = plan._subjects(first != second)
    mean = (right_a - right_b) / count
    squares = discordant - count * mean**2 + count / count.sum()
    pooled = squares.sum() / max(count.sum() - count.size, 1.0)
    variance = (squares + _BORROWED * pooled) / (count - 1.0 + _BORROWED)
    difference = float(np.sum(weight * mean))
    error = math.sqrt(float(np.sum(weight**2 * variance / count)))
    return PairedDifference(difference, error, two_sided_p(difference / error))


def separate_difference(
    a: Values,
    b: Values,
    strata_a: IntArray | None = None,
    strata_b: IntArray | None = None,
    weights: FloatArray | None = None,
) -> tuple[float, float] | None:
    """Score of a minus score of b on different questions of the same subjects; standard error.

    `a`, `b`: [n], [m]; `strata_a`, `strata_b`: their subjects, all one without. Subjects that only
    one of them has are left out; None where nothing is left. The error is the larger one of two: as
    if both had one mean in each subject (a score test, which near 0 knows that few right answers
    are no sign), and each by its own (which near 1 knows that a wrong one is none). Never zero.
    """
    if strata_a is None or strata_b is None:
        strata_a, strata_b = np.zeros(len(a), np.intp), np.zeros(len(b), np.intp)
        weights = np.ones(1)
    subjects = 1 + max(int(strata_a.max(initial=0)), int(strata_b.max(initial=0)))
    worth = np.ones(subjects) if weights is None else np.asarray(weights, np.float64)
    worth = np.pad(worth, (0, max(0, subjects - worth.size)))
    sums = []
    for values, strata in ((a, strata_a), (b, strata_b)):
        exact = np.asarray(values, np.float64)
        sums.append([np.bincount(strata, w, worth.size) for w in (None, exact, exact**2)])
    seen = (sums[0][0] > 0) & (sums[1][0] > 0) & (worth > 0)
    if not seen.any():
        return None
    weight = worth[seen] / worth[seen].sum()
    parts = [np.array([part[seen] for part in one]) for one in sums]
    whole = parts[0] + parts[1]
    (n, first, _), (m, second, _) = parts
    difference = float(np.sum(weight * (first / n - second / m)))
    together = float(np.sum(weight**2 * _variances(whole) * (1.0 / n + 1.0 / m)))
    apart = float(np.sum(weight**2 * (_variances(parts[0]) / n + _variances(parts[1]) / m)))
    return difference, math.sqrt(max(together, apart))


def _variances(sums: FloatArray) -> FloatArray:
    """Variances [S'] in subjects of these counts, sums and sums of squares [3, S'].

    As if each had two values more, of all subjects together, and these one 0 and one 1 more.
    """
    count, total, squares = sums
    n = count.sum() + 2.0
    mean, square = (total.sum() + 1.0) / n, (squares.sum() + 1.0) / n
    steady = (total + _BORROWED * mean) / (count + _BORROWED)
    found: FloatArray = (squares + _BORROWED * square) / (count + _BORROWED) - steady**2
    return np.maximum(found, _LEAST)


def share_variance(share: float, questions: int) -> float:
    """Variance of a share of right answers among that many, never zero.

    One right and one wrong answer more than were seen are counted.
    """
    steady = (share * questions + 1.0) / (questions + 2.0)
    return steady * (1.0 - steady) / questions


def two_sided_p(z: float) -> float:
    """Chance of a standard normal value at least as far from 0 as z."""
    return math.erfc(abs(z) / math.sqrt(2.0))


def upper_p(z: float) -> float:
    """Chance of a standard normal value of z or more."""
    return 0.5 * math.erfc(z / math.sqrt(2.0))


def shrunk(score: float, n: float, prior_mean: float, strength: float) -> float:
    """A score of n questions drawn toward `prior_mean` by `strength` questions.

    (n score + strength prior_mean) / (n + strength): the mean of the beta posterior. It lets
    scores of different fidelity be compared: what rests on few questions moves further.
    """
    total = n + strength
    return (n * score + strength * prior_mean) / total if total > 0 else prior_mean


def prior_strength(scores: FloatArray, questions: FloatArray) -> float:
    """Questions that the spread of a population is worth, by the method of moments.

    `scores`, `questions`: float [n]. mean p (1 - p) over the variance between layer sets,
    which is the variance of the scores less that of their noise; at most 10 times the mean
    number of questions (then the spread is all noise). 0 for fewer than two scores.
    """
    if scores.size < 2:
        return 0.0
    within = np.clip(scores * (1.0 - scores), 0.0, None)
    noise = float(np.mean(within / np.maximum(questions, 1.0)))
    between = float(np.var(scores, ddof=1)) - noise
    most = 10.0 * float(np.mean(questions))
    spread = float(np.mean(within))
    return most if between * most <= spread else spread / between


def spearman(a: FloatArray, b: FloatArray) -> float:
    """Spearman's rank correlation of two float [n], ties at their mean rank.

    NaN where one of them is constant or n < 2. Raises `ValueError` for different lengths.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape != y.shape:
        raise ValueError(f"spearman: {x.size} and {y.size} values; expected as many")
    if x.size < 2:
        return math.nan
    ranks = [_mean_ranks(v) for v in (x, y)]
    centred = [r - r.mean() for r in ranks]
    scale = math.sqrt(float(np.sum(centred[0] ** 2) * np.sum(centred[1] ** 2)))
    return float(np.sum(centred[0] * centred[1])) / scale if scale > 0 else math.nan


def _mean_ranks(values: FloatArray) -> FloatArray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: FloatArray = (last - (counts - 1) / 2.0)[inverse]
    return ranks
