"""The fixed order of a study's questions: shuffled, stratified by subject.

The first n questions are a fair sample of all, the fast ones are a prefix of the full ones, and a
score on any prefix weights the subjects as the full metric does. Pure numpy.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optlayers.config.fields import Questions


@dataclass(frozen=True)
class Subject:
    """A leaf task of lm-eval, or a text: its name, number of questions, and weight in the score.

    documents: the documents that are its questions; empty: the first `size`. digest: says which
    documents the task has; empty: not known.
    """

    name: str
    size: int
    weight: float
    documents: tuple[int, ...] = ()
    digest: str = ""

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The documents that are its questions [size], in lm-eval's order."""
        return np.array(self.documents or range(self.size), dtype=np.int64)


@dataclass(frozen=True)
class Request:
    """One continuation to score.

    tokens: the input, context and continuation without the last token, truncated from the left at
    the model's length. targets: the continuation, predicted at the last `len(targets)` positions.
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
    """The questions of a study in their order.

    subject, document: int [n_full]; question i is document[i] of subjects[subject[i]].
    held_subject, held_document: the same of the held-out questions.
    """

    subjects: tuple[Subject, ...]
    subject: NDArray[np.int64]
    document: NDArray[np.int64]
    held_subject: NDArray[np.int64]
    held_document: NDArray[np.int64]
    n_fast: int

    @property
    def n_full(self) -> int:
        """Number of questions at full fidelity."""
        return len(self.subject)

    @property
    def weights(self) -> NDArray[np.float64]:
        """Weight of each subject, sum 1."""
        weights = np.array([s.weight for s in self.subjects], dtype=np.float64)
        return np.asarray(weights / weights.sum())

    @property
    def fast_weights(self) -> NDArray[np.float64]:
        """Weight of each fast question in the score on them [n_fast], sum 1 at most."""
        subject = self.subject[: self.n_fast]
        count = np.bincount(subject, minlength=len(self.subjects))
        return np.asarray(self.weights[subject] / count[subject])


def order_questions(subjects: Sequence[Subject], questions: Questions) -> QuestionOrder:
    """The order of a study; the same for the same subjects and the same `questions`."""
    fast: list[NDArray[np.int64]] = []
    rest: list[NDArray[np.int64]] = []
    held: list[NDArray[np.int64]] = []
    for s, subject in enumerate(subjects):
        # A subject's own shuffle does not depend on which other subjects there are.
        rng = np.random.default_rng([questions.seed, zlib.crc32(subject.name.encode())])
        documents = subject.numbers[rng.permutation(subject.size)]
        pairs = np.stack([np.full(subject.size, s), documents], axis=1)
        n_held = min(round(subject.size * questions.holdout), subject.size - 1)
        kept, aside = np.split(pairs, [subject.size - n_held])
        held.append(aside[np.argsort(aside[:, 1])])
        kept = kept[: questions.full]
        fast.append(kept[: questions.fast])
        rest.append(kept[len(fast[-1]) :])
    rng = np.random.default_rng([questions.seed, 1])
    order = np.concatenate([_interleave(fast, rng), _interleave(rest, rng)])
    held_out = np.concatenate(held)
    return QuestionOrder(
        subjects=tuple(subjects),
        subject=order[:, 0],
        document=order[:, 1],
        held_subject=held_out[:, 0],
        held_document=held_out[:, 1],
        n_fast=sum(map(len, fast)),
    )


def _interleave(blocks: Sequence[NDArray[np.int64]], rng: np.random.Generator) -> NDArray[np.int64]:
    """Mix blocks so that every prefix holds about the same share of each."""
    keys = [(np.arange(len(b)) + rng.random(len(b))) / max(1, len(b)) for b in blocks]
    return np.concatenate(blocks)[np.argsort(np.concatenate(keys), kind="stable")]


def by_subject(
    subjects: Sequence[Subject], strata: NDArray[np.int64], answers: NDArray[Any]
) -> dict[str, float]:
    """The mean answer of each subject; strata [n]: the subject of each of the answers [n]."""
    return {
        subject.name: float(answers[strata == number].mean())
        for number, subject in enumerate(subjects)
    }
