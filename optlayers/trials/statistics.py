"""Scores of answers: stratified means, intervals, differences, shrinkage."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from optlayers.trials.answers import Answers

IntArray = npt.NDArray[np.integer]
FloatArray = npt.NDArray[np.floating]

# 97.5 % point of the standard normal distribution.
Z95 = 1.959963984540054

# Pseudo-answers per subject, at the mean of all subjects: they steady subjects with few answers.
_PRIOR = 2.0
_MIN_ERROR = 1e-9


class ScoreInterval(NamedTuple):
    """A score with its 95 % interval, all within [0, 1]."""

    score: float
    ci_low: float
    ci_high: float


class PairedDifference(NamedTuple):
    """The score of a minus the score of b on the same questions, and its uncertainty."""

    difference: float
    standard_error: float
    p_value: float


class StratifiedScore:
    """Scores the first questions of a study: sum over subjects of weight times mean.

    `strata`, int [N], is the subject of each question in the order of the study; `weights`,
    float [S], are the subjects' weights on any positive scale (default: the share of each subject
    among all N questions). Raises `ValueError` where the two do not fit.
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
        """All questions in one subject: the score is the mean."""
        return cls(strata=np.zeros(questions, dtype=np.intp))

    def score(self, answers: Answers) -> float:
        """The score of the first n questions; see `interval`."""
        count, right, weight = self.by_subject(answers)
        return float(np.sum(weight * right / count))

    def interval(self, answers: Answers) -> ScoreInterval:
        """Score and 95 % interval of `answers` [n], those to the first n questions.

        Weights are renormalised over the subjects seen. The interval of right and wrong answers is
        Wilson's (1927) at the effective sample size n_eff = p (1 - p) / V, with the stratified
        variance V = sum_s w_s^2 p_s (1 - p_s) / n_s. In V and n_eff (not in the score), each
        subject's mean is shrunk toward the overall mean by two pseudo-answers, and that toward one
        half by one right and one wrong, so that V is never zero. The interval of real values is
        normal, cut to [0, 1]. The questions are taken as a sample of a larger set (no
        finite-population correction). Raises `ValueError` for no answers, or more than questions.
        """
        if np.asarray(answers).dtype != np.bool_:
            score, error = self.mean_and_error(answers)
            low, high = max(0.0, score - Z95 * error), min(1.0, score + Z95 * error)
        else:
            score, mean, variance = self._shrunk_variance(answers)
            n_eff = mean * (1.0 - mean) / variance
            z2 = Z95**2
            scale = 1.0 + z2 / n_eff
            centre = (score + z2 / (2.0 * n_eff)) / scale
            inside = max(score * (1.0 - score), 0.0) / n_eff + z2 / (4.0 * n_eff**2)
            half = Z95 * math.sqrt(inside) / scale
            low, high = max(0.0, centre - half), min(1.0, centre + half)
        # Rounding must not put the score outside its interval at 0 and 1.
        return ScoreInterval(score, min(low, score), max(high, score))

    def estimate(self, answers: Answers) -> tuple[float, float]:
        """The score and its standard error, never zero: the square root of V of `interval`."""
        if np.asarray(answers).dtype != np.bool_:
            score, error = self.mean_and_error(answers)
            return score, max(error, _MIN_ERROR)
        score, _, variance = self._shrunk_variance(answers)
        return score, math.sqrt(variance)

    def _shrunk_variance(self, answers: Answers) -> tuple[float, float, float]:
        """Score, shrunk mean, and variance of right answers, bool [n]."""
        count, right, weight = self.by_subject(answers)
        overall = (right.sum() + 1.0) / (count.sum() + 2.0)
        mean = (right + _PRIOR * overall) / (count + _PRIOR)
        variance = float(np.sum(weight**2 * mean * (1.0 - mean) / count))
        return float(np.sum(weight * right / count)), float(np.sum(weight * mean)), variance

    def mean_and_error(self, values: Answers) -> tuple[float, float]:
        """The stratified mean of real values, float [n], and its standard error.

        The variance of a subject is shrunk toward the pooled one by two pseudo-values, and that
        toward the overall one; a single value has the largest variance possible.
        """
        count, total, weight = self.by_subject(values)
        _, squares, _ = self.by_subject(np.square(values))
        mean, n = total / count, len(values)
        within = np.maximum(squares - count * mean**2, 0.0)
        overall = float(np.var(values, ddof=1)) if n > 1 else 0.25
        freedom = count.sum() - count.size
        pooled = (within.sum() + _PRIOR * overall) / (freedom + _PRIOR)
        variance = (within + _PRIOR * pooled) / (count - 1.0 + _PRIOR)
        error = math.sqrt(float(np.sum(weight**2 * variance / count)))
        return float(np.sum(weight * mean)), error

    def by_subject(self, answers: Answers) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Of each subject seen: questions, sum of the answers, weight (sum 1), float [S']."""
        n = len(answers)
        if not 0 < n <= self.strata.size:
            raise ValueError(f"answers: {n} of {self.strata.size} questions; expected 1 or more")
        strata = self.strata[:n]
        size = self.weights.size
        count = np.bincount(strata, minlength=size).astype(np.float64)
        values = np.asarray(answers, np.float64)
        right: FloatArray = np.bincount(strata, weights=values, minlength=size).astype(np.float64)
        seen = (count > 0) & (self.weights > 0)
        if not seen.any():
            raise ValueError("weights: every subject seen has weight 0")
        weight = self.weights[seen]
        return count[seen], right[seen], weight / weight.sum()


def paired_difference(
    a: Answers,
    b: Answers,
    strata: IntArray | None = None,
    weights: FloatArray | None = None,
) -> PairedDifference:
    """Score of a minus score of b on their common questions, standard error, two-sided p-value.

    `a`, `b`: [n], [m]; the first min(n, m) of each count. Without `strata` all questions are one
    subject. The variance is sum_s w_s^2 v_s / n_s, with v_s the sample variance of the differences
    in subject s, shrunk toward the pooled one by two degrees of freedom. One more discordant
    question than was seen is counted, spread over the subjects by size: it keeps the normal p-value
    from overstating a handful of them, and gives equal answers a difference of 0 at p = 1. Real
    values are compared by their differences alone. Raises `ValueError` for no common question.
    """
    n = min(len(a), len(b))
    scorer = (
        StratifiedScore.plain(n)
        if strata is None
        else StratifiedScore(strata=strata, weights=weights)
    )
    first, second = np.asarray(a[:n]), np.asarray(b[:n])
    if first.dtype != np.bool_ or second.dtype != np.bool_:
        gap = first.astype(np.float64) - second.astype(np.float64)
        difference, error = scorer.mean_and_error(gap)
        error = max(error, _MIN_ERROR)  # of equal values it is 0
    else:
        count, right_a, weight = scorer.by_subject(first)
        _, right_b, _ = scorer.by_subject(second)
        _, discordant, _ = scorer.by_subject(first != second)
        mean = (right_a - right_b) / count
        squares = discordant - count * mean**2 + count / count.sum()
        pooled = squares.sum() / max(count.sum() - count.size, 1.0)
        variance = (squares + _PRIOR * pooled) / (count - 1.0 + _PRIOR)
        difference = float(np.sum(weight * mean))
        error = math.sqrt(float(np.sum(weight**2 * variance / count)))
    return PairedDifference(difference, error, 2.0 * upper_p(abs(difference) / error))


def separate_difference(
    a: Answers,
    b: Answers,
    strata_a: IntArray | None = None,
    strata_b: IntArray | None = None,
    weights: FloatArray | None = None,
) -> tuple[float, float] | None:
    """Score of a minus score of b on different questions of the same subjects; standard error.

    `a`, `b`: [n], [m]; `strata_a`, `strata_b`: their subjects (default: one). Subjects that only
    one of them has are left out; None where nothing is left. The error is the larger of two: with
    one mean in each subject (a score test, which is right near 0, where few right answers prove
    nothing), and with two (right near 1). Never zero.
    """
    if strata_a is None or strata_b is None:
        strata_a, strata_b = np.zeros(len(a), np.intp), np.zeros(len(b), np.intp)
        weights = np.ones(1)
    subjects = 1 + max(int(strata_a.max(initial=0)), int(strata_b.max(initial=0)))
    given = np.ones(subjects) if weights is None else np.asarray(weights, np.float64)
    given = np.pad(given, (0, max(0, subjects - given.size)))
    sums = []
    for values, strata in ((a, strata_a), (b, strata_b)):
        real = np.asarray(values, np.float64)
        sums.append([np.bincount(strata, w, given.size) for w in (None, real, real**2)])
    seen = (sums[0][0] > 0) & (sums[1][0] > 0) & (given > 0)
    if not seen.any():
        return None
    weight = given[seen] / given[seen].sum()
    parts = [np.array([part[seen] for part in one]) for one in sums]
    (n, first, _), (m, second, _) = parts
    difference = float(np.sum(weight * (first / n - second / m)))
    one_mean = weight**2 * _variances(parts[0] + parts[1]) * (1.0 / n + 1.0 / m)
    two_means = weight**2 * (_variances(parts[0]) / n + _variances(parts[1]) / m)
    return difference, math.sqrt(max(float(np.sum(one_mean)), float(np.sum(two_means))))


def _variances(sums: FloatArray) -> FloatArray:
    """Variances [S'] in subjects of these counts, sums and sums of squares [3, S'].

    With two pseudo-values per subject, at the overall mean, and there one 0 and one 1.
    """
    count, total, squares = sums
    n = count.sum() + 2.0
    mean, square = (total.sum() + 1.0) / n, (squares.sum() + 1.0) / n
    shrunk_mean = (total + _PRIOR * mean) / (count + _PRIOR)
    found: FloatArray = (squares + _PRIOR * square) / (count + _PRIOR) - shrunk_mean**2
    return np.maximum(found, _MIN_ERROR)


def share_variance(share: float, questions: int) -> float:
    """Variance of a share of right answers, never zero: one right and one wrong are added."""
    mean = (share * questions + 1.0) / (questions + 2.0)
    return mean * (1.0 - mean) / questions


def upper_p(z: float) -> float:
    """Probability of a standard normal value of z or more."""
    return 0.5 * math.erfc(z / math.sqrt(2.0))


def shrunk(score: float, n: float, prior_mean: float, strength: float) -> float:
    """A score of n questions shrunk toward `prior_mean` by `strength` pseudo-questions.

    (n score + strength prior_mean) / (n + strength): the mean of the beta posterior. It makes
    scores of different fidelity comparable: those on few questions move further.
    """
    total = n + strength
    return (n * score + strength * prior_mean) / total if total > 0 else prior_mean


def prior_strength(scores: FloatArray, questions: FloatArray) -> float:
    """The pseudo-questions of the prior of a population, by the method of moments.

    `scores`, `questions`: float [n]. mean p (1 - p) over the variance between layer sets, which is
    the variance of the scores minus that of their noise; at most 10 times the mean number of
    questions (then the variance is all noise). 0 for fewer than two scores.
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
    centred = [ranks - ranks.mean() for ranks in map(_mean_ranks, (x, y))]
    scale = math.sqrt(float(np.sum(centred[0] ** 2) * np.sum(centred[1] ** 2)))
    return float(np.sum(centred[0] * centred[1])) / scale if scale > 0 else math.nan


def _mean_ranks(values: FloatArray) -> FloatArray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: FloatArray = (last - (counts - 1) / 2.0)[inverse]
    return ranks
