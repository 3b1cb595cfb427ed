"""The fixed order of a study's questions: shuffled, stratified by subject.

The first n questions are a fair sample of all of them, the fast ones are a prefix of the full
ones, and a score from any prefix weights every subject as the full metric does. Pure numpy.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optlayers.config.study import Questions


@dataclass(frozen=True)
class Subject:
    """One leaf task of lm-eval: its name, number of documents, and weight in the objective."""

    name: str
    size: int
    weight: float


@dataclass(frozen=True)
class Request:
    """One continuation to score: the tokens put in, and the last of them that are scored.

    tokens: what the model reads (context and continuation, less the last token, truncated from
    the left at the model's length). targets: the continuation's tokens, predicted at the last
    `len(targets)` positions.
    """

    tokens: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """One document of one subject, and its requests in lm-eval's order."""

    subject: int
    document: int
    requests: tuple[Request, ...]


@dataclass(frozen=True)
class QuestionOrder:
    """Which document is asked when.

    subject, document: int arrays [n_full]; the question i is document[i] of
    subjects[subject[i]]. held_subject, held_document: int arrays of the questions set aside.
    weights: float array [subjects], sum 1.
    """

    subjects: tuple[Subject, ...]
    subject: NDArray[np.int64]
    document: NDArray[np.int64]
    held_subject: NDArray[np.int64]
    held_document: NDArray[np.int64]
    n_fast: int

    @property
    def n_full(self) -> int:
        """Number of questions of the full fidelity."""
        return len(self.subject)

    @property
    def weights(self) -> NDArray[np.float64]:
        """Weight of each subject, sum 1."""
        weights = np.array([s.weight for s in self.subjects], dtype=np.float64)
        return np.asarray(weights / weights.sum())

    @property
    def fast_weights(self) -> NDArray[np.float64]:
        """What each of the fast questions counts in the score on them [n_fast], sum 1 at most."""
        subject = self.subject[: self.n_fast]
        count = np.bincount(subject, minlength=len(self.subjects))
        return np.asarray(self.weights[subject] / count[subject])


def _stratified(blocks: Sequence[NDArray[np.int64]], rng: np.random.Generator) -> list[int]:
    """Interleave the blocks evenly: every prefix holds about the same share of each block."""
    keys, flat = [], []
    for block in blocks:
        keys.append((np.arange(len(block)) + rng.random(len(block))) / max(1, len(block)))
        flat.append(block)
    if not flat:
        return []
    order = np.argsort(np.concatenate(keys), kind="stable")
    return [int(i) for i in np.concatenate(flat)[order]]


def order_questions(subjects: Sequence[Subject], questions: Questions) -> QuestionOrder:
    """The order of a study; the same for the same subjects and the same `questions`."""
    first: list[NDArray[np.int64]] = []
    rest: list[NDArray[np.int64]] = []
    held: list[tuple[int, int]] = []
    spot: list[tuple[int, int]] = []  # every search question as (subject, document)
    for s, subject in enumerate(subjects):
        # A subject's own shuffle does not depend on which other subjects there are.
        rng = np.random.default_rng([questions.seed, zlib.crc32(subject.name.encode())])
        shuffled = rng.permutation(subject.size)
        n_held = round(subject.size * questions.holdout)
        if n_held >= subject.size:
            n_held = subject.size - 1
        held += [(s, int(d)) for d in sorted(shuffled[subject.size - n_held :])]
        mine = shuffled[: subject.size - n_held][: questions.full]
        start = len(spot)
        spot += [(s, int(d)) for d in mine]
        n_first = len(mine) if questions.fast is None else min(questions.fast, len(mine))
        numbers = np.arange(start, len(spot), dtype=np.int64)
        first.append(numbers[:n_first])
        rest.append(numbers[n_first:])
    rng = np.random.default_rng([questions.seed, 1])
    order = _stratified(first, rng) + _stratified(rest, rng)
    picked = np.array([spot[i] for i in order], dtype=np.int64).reshape(-1, 2)
    kept = np.array(held, dtype=np.int64).reshape(-1, 2)
    return QuestionOrder(
        subjects=tuple(subjects),
        subject=picked[:, 0],
        document=picked[:, 1],
        held_subject=kept[:, 0],
        held_document=kept[:, 1],
        n_fast=sum(len(block) for block in first),
    )


def by_subject(
    subjects: Sequence[Subject], strata: NDArray[np.int64], answers: NDArray[Any]
) -> dict[str, float]:
    """The mean of the answers [n] of each subject; strata [n] says whose each is."""
    return {
        subject.name: float(answers[strata == number].mean())
        for number, subject in enumerate(subjects)
    }
