"""Which hidden states and vocabulary rows a batch needs, and which request each result is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optlayers.evaluation.questions import Question


@dataclass(frozen=True)
class TokenSequence:
    """One distinct input sequence, and the requests that it serves: (request number, targets).

    single: every request of their questions is one token long and has this sequence as context.
    """

    tokens: tuple[int, ...]
    requests: tuple[tuple[int, tuple[int, ...]], ...]
    single: bool


@dataclass(frozen=True)
class Targets:
    """The tokens that a batch has to predict, M of them.

    positions: (sequence, position) of each of the K hidden states that are needed. states, tokens,
    requests [M]: of each target the hidden state, the token (its index in `vocabulary`, where that
    is not empty) and the request. vocabulary: the rows of the head that suffice; empty: all.
    """

    positions: list[tuple[int, int]]
    states: list[int]
    tokens: list[int]
    requests: NDArray[np.int64]
    vocabulary: list[int]

    @classmethod
    def of(cls, batch: Sequence[TokenSequence], relative: bool) -> Targets:
        """relative: log-likelihoods may be off by a constant for each question."""
        numbers: dict[tuple[int, int], int] = {}
        states, tokens, requests = [], [], []
        for b, sequence in enumerate(batch):
            for request, targets in sequence.requests:
                start = len(sequence.tokens) - len(targets)
                for offset, target in enumerate(targets):
                    states.append(numbers.setdefault((b, start + offset), len(numbers)))
                    tokens.append(target)
                    requests.append(request)
        vocabulary: list[int] = []
        if relative and all(sequence.single for sequence in batch):
            vocabulary = sorted(set(tokens))
            index = {token: i for i, token in enumerate(vocabulary)}
            tokens = [index[token] for token in tokens]
        return cls(list(numbers), states, tokens, np.array(requests, dtype=np.int64), vocabulary)

    def add_to(self, found: NDArray[np.float64], values: NDArray[np.float64]) -> None:
        """Set found [requests, 2]: the sum of each request's targets, and whether all are greedy.

        values [2, M]: log-likelihoods, and 1 where the target is the likeliest token.
        """
        # The targets of a request are adjacent.
        present, start = np.unique(self.requests, return_index=True)
        order = np.argsort(start)
        present, start = present[order], start[order]
        found[present, 0] = np.add.reduceat(values[0], start)
        found[present, 1] = np.logical_and.reduceat(values[1] > 0, start)


def distinct_sequences(questions: Sequence[Question]) -> list[TokenSequence]:
    """The distinct inputs: choices of one token share the sequence that is their context."""
    served: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
    several: set[tuple[int, ...]] = set()
    number = 0
    for question in questions:
        one_context = len({request.tokens for request in question.requests}) == 1
        for request in question.requests:
            served.setdefault(request.tokens, []).append((number, request.targets))
            if not one_context or len(request.targets) > 1:
                several.add(request.tokens)
            number += 1
    return [TokenSequence(tokens, tuple(s), tokens not in several) for tokens, s in served.items()]
