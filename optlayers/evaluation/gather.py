"""Which positions and vocabulary rows a batch needs, and how results go back to the requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optlayers.evaluation.questions import Question


@dataclass(frozen=True)
class TokenSequence:
    """One distinct sequence, and the requests that it serves: (request number, targets).

    whole: all requests of their questions are one token each, and end in this sequence.
    """

    tokens: tuple[int, ...]
    wants: tuple[tuple[int, tuple[int, ...]], ...]
    whole: bool


@dataclass(frozen=True)
class Picks:
    """The needed positions of a batch, and its targets.

    where: (row, position) of each pick. spots, goals, owners [M]: for each target the pick that
    predicts it, its token (or its place in `rows`), and its request. rows: the vocabulary rows
    that suffice, where only comparisons within a question matter; empty for all.
    """

    where: list[tuple[int, int]]
    spots: list[int]
    goals: list[int]
    owners: NDArray[np.int64]
    rows: list[int]

    @classmethod
    def of(cls, batch: Sequence[TokenSequence], relative: bool) -> Picks:
        """Of a batch; `relative` allows likelihoods that are right up to a constant a question."""
        index: dict[tuple[int, int], int] = {}
        spots, owners, targets = [], [], []
        for b, row in enumerate(batch):
            for request, wanted in row.wants:
                start = len(row.tokens) - len(wanted)
                for offset, target in enumerate(wanted):
                    spots.append(index.setdefault((b, start + offset), len(index)))
                    owners.append(request)
                    targets.append(target)
        rows: list[int] = []
        if relative and all(row.whole for row in batch):
            rows = sorted(set(targets))
            place = {token: i for i, token in enumerate(rows)}
            targets = [place[token] for token in targets]
        return cls(list(index), spots, targets, np.array(owners, dtype=np.int64), rows)


def distinct_rows(questions: Sequence[Question]) -> list[TokenSequence]:
    """The distinct sequences: choices of one token share the sequence that is their context."""
    wants: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
    split: set[tuple[int, ...]] = set()
    number = 0
    for question in questions:
        together = len({request.tokens for request in question.requests}) == 1
        for request in question.requests:
            wants.setdefault(request.tokens, []).append((number, request.targets))
            if not together or len(request.targets) > 1:
                split.add(request.tokens)
            number += 1
    return [
        TokenSequence(tokens, tuple(group), tokens not in split) for tokens, group in wants.items()
    ]


def collect(found: NDArray[np.float64], picks: Picks, values: NDArray[np.float64]) -> None:
    """Sum the log-likelihoods of each request's targets, and join their greediness.

    values [2, M]: log-likelihood, and 1 where the target is the likeliest token.
    """
    present, start = np.unique(picks.owners, return_index=True)
    order = np.argsort(start)
    present, start = present[order], start[order]
    found[present, 0] = np.add.reduceat(values[0], start)
    found[present, 1] = np.logical_and.reduceat(values[1] > 0, start)
