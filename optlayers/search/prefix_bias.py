"""Prefix bias: how much easier the first n questions are than all questions.

A prefix may be easier than the rest, for every layer set alike, so scores on different numbers of
questions are not comparable. The mean drop of the sets that continued would be biased, since they
were selected for luck. Here the level of each set is unknown as well and estimated from all its
scores, so the selection is ignorable (Rubin 1976).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from optlayers.trials.ranking import best_by_layers
from optlayers.trials.record import Record

FloatArray = NDArray[np.float64]

# With more distinct numbers of questions than this, they are not rungs.
_MOST = 16
# Candidate shares of the binomial variance that are specific to a set, not common to all.
_OWN = (0.2, 0.4, 0.7, 1.0)


def levelled(records: Iterable[Record]) -> list[Record]:
    """The record with most questions of each evaluated set, its score corrected for prefix bias."""
    known = list(records)
    best = best_by_layers(known)
    courses: dict[tuple[int, ...], dict[int, float]] = {}
    for record in known:
        if record.is_evaluated and record.intermediate:
            courses.setdefault(record.layers.indices, {}).update(record.intermediate)
    biases = prefix_biases(list(courses.values()))
    return [at_level(record, biases) for record in best.values()]


def at_level(record: Record, biases: Mapping[int, float]) -> Record:
    """The record with its score minus the bias of its prefix."""
    bias = biases.get(record.questions or 0, 0.0)
    if not bias or record.score is None:
        return record
    return replace(record, score=record.score - bias)


def prefix_biases(courses: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Bias of the score on the first n questions, for each n that occurs.

    courses: for each set, number of questions -> score. Between two rungs, a set's share of right
    answers is level + bias + noise: levels are normal with unknown mean, biases of segments are
    normal around zero, and noise is a share of the binomial variance (the most likely of a few).
    Solved by generalised least squares, relative to the largest n. All zero if scores are not in
    [0, 1] or if no set has scores at two rungs.
    """
    alike = _alike(courses)
    knots = sorted({n for steps in alike for n in steps})
    nothing = dict.fromkeys(knots, 0.0)
    if not 2 <= len(knots) <= _MOST:
        return nothing
    if any(scores.min() < 0.0 or scores.max() > 1.0 for scores in alike.values()):
        return nothing
    length = np.diff([0, *knots]).astype(np.float64)
    first = np.concatenate([scores[:, 0] for scores in alike.values()])
    questions = np.repeat([float(steps[0]) for steps in alike], [len(s) for s in alike.values()])
    binomial = max(float(np.mean(first * (1.0 - first))), 0.01)
    kinds = {steps: _shares(steps, scores) for steps, scores in alike.items()}
    best, segments = -np.inf, np.zeros(len(knots))
    for share in _OWN:
        own = share * binomial
        spread = max(float(np.var(first)) - own * float(np.mean(1.0 / questions)), 1e-4)
        likelihood, found = _solve(kinds, knots, spread, own, binomial)
        if likelihood > best:
            best, segments = likelihood, found
    prefix = np.cumsum(segments * length) / np.cumsum(length)
    return dict(zip(knots, (prefix - prefix[-1]).tolist(), strict=True))


def _solve(
    kinds: Mapping[tuple[int, ...], FloatArray],
    knots: Sequence[int],
    spread: float,
    own: float,
    binomial: float,
) -> tuple[float, FloatArray]:
    """Log-likelihood at the solution, and the bias of each segment."""
    length = np.diff([0, *knots]).astype(np.float64)
    # Unknowns: the mean level and the bias of each segment.
    precision = np.diag([1e-9, *(length / binomial)])
    right = np.zeros(1 + len(knots))
    parts = []
    for steps, shares in kinds.items():
        width = np.diff([0, *steps]).astype(np.float64)
        design = np.zeros((len(steps), 1 + len(knots)))
        design[:, 0] = 1.0
        start = 0
        for row, n in enumerate(steps):
            stop = knots.index(n) + 1
            design[row, 1 + start : 1 + stop] = length[start:stop] / width[row]
            start = stop
        weight = np.linalg.inv(spread + np.diag(own / width))
        precision += len(shares) * design.T @ weight @ design
        right += design.T @ weight @ shares.sum(axis=0)
        parts.append((design, weight, shares))
    solution = np.linalg.solve(precision, right)
    likelihood = -0.5 * float(np.sum(solution[1:] ** 2 * length)) / binomial
    for design, weight, shares in parts:
        rest = shares - design @ solution
        likelihood += 0.5 * len(shares) * float(np.linalg.slogdet(weight)[1])
        likelihood -= 0.5 * float(np.sum((rest @ weight) * rest))
    return likelihood, np.asarray(solution[1:])


def _alike(courses: Sequence[Mapping[int, float]]) -> dict[tuple[int, ...], FloatArray]:
    """Score histories grouped by their rungs (ascending): scores [sets, rungs]."""
    # A few kinds of histories, tens of thousands in all.
    as_stored: dict[tuple[int, ...], list[list[float]]] = {}
    for course in courses:
        if course:
            as_stored.setdefault(tuple(course), []).append(list(course.values()))
    found: dict[tuple[int, ...], list[FloatArray]] = {}
    for steps, rows in as_stored.items():
        # A plain study may report at step 0, which is not a number of questions.
        order = [place for place in np.argsort(steps) if steps[place] > 0]
        if order:
            scores = np.array(rows, dtype=np.float64)[:, order]
            found.setdefault(tuple(steps[place] for place in order), []).append(scores)
    return {steps: np.concatenate(parts) for steps, parts in found.items()}


def _shares(steps: tuple[int, ...], scores: FloatArray) -> FloatArray:
    """Shares of right answers between two rungs, from the scores up to each [courses, rungs]."""
    right = scores * np.array(steps, dtype=np.float64)
    shares: FloatArray = np.diff(right, axis=1, prepend=0.0) / np.diff([0, *steps])
    return shares
