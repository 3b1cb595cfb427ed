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
    """The tokens that a batch has to predict: M targets of R requests, from K hidden states.

    positions [K]: (sequence, position) of the hidden states. states, tokens [M]: the hidden state
    and the token of each target (its index in `vocabulary`, unless that is empty). requests,
    starts [R]: the number and the first target of each request. vocabulary: the rows of the head
    that suffice; empty: all.
    """

    positions: list[tuple[int, int]]
    states: list[int]
    tokens: list[int]
    requests: list[int]
    starts: list[int]
    vocabulary: list[int]

    @classmethod
    def of(cls, batch: Sequence[TokenSequence], relative: bool) -> Targets:
        """relative: log-likelihoods may be off by a constant for each question."""
        numbers: dict[tuple[int, int], int] = {}
        states: list[int] = []
        tokens: list[int] = []
        requests: list[int] = []
        starts: list[int] = []
        for b, sequence in enumerate(batch):
            for request, targets in sequence.requests:
                requests.append(request)
                starts.append(len(tokens))
                tokens += targets
                length = len(sequence.tokens)
                for position in range(length - len(targets), length):
                    states.append(numbers.setdefault((b, position), len(numbers)))
        vocabulary: list[int] = []
        if relative and all(sequence.single for sequence in batch):
            vocabulary = sorted(set(tokens))
            index = {token: i for i, token in enumerate(vocabulary)}
            tokens = [index[token] for token in tokens]
        return cls(list(numbers), states, tokens, requests, starts, vocabulary)

    def add_to(self, found: NDArray[np.float64], values: NDArray[np.float64]) -> None:
        """Set found [requests, 2]: the sum of each request's targets, and whether all are greedy.

        values [2, M]: log-likelihoods, and 1 where the target is the likeliest token.
        """
        found[self.requests, 0] = np.add.reduceat(values[0], self.starts)
        found[self.requests, 1] = np.logical_and.reduceat(values[1] > 0, self.starts)


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
