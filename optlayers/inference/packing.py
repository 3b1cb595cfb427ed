"""Packing sequences as a tree of segments, in which shared prefixes occur once.

Sequences share the few-shot examples of a subject, or one context before several choices. There
is no padding. This module is pure.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

Tokens = tuple[int, ...]

# A shorter shared prefix is not worth a branch. A segment with children must also hold the three
# tokens that the convolution of a recurrent layer looks back.
MIN_SHARED = 8
MAX_DEPTH = 6
NO_SHARING = 1 << 30


@dataclass(frozen=True)
class Segment:
    """Some tokens of a sequence. start: position of the first. parent: segment before, or -1."""

    tokens: Tokens
    start: int
    parent: int


@dataclass(frozen=True)
class Pack:
    """Segments, parents before children.

    offsets: packed index of each segment's first token. ends: the last segment of each
    sequence. n_tokens: tokens of all segments.
    """

    segments: tuple[Segment, ...]
    offsets: tuple[int, ...]
    ends: tuple[int, ...]
    n_tokens: int

    def index(self, sequence: int, position: int) -> int:
        """Packed index of a position in a sequence."""
        segment = self.ends[sequence]
        while self.segments[segment].start > position:
            segment = self.segments[segment].parent
        return self.offsets[segment] + position - self.segments[segment].start


def shared_prefix(a: Tokens, b: Tokens) -> int:
    """Length of the longest common prefix."""
    lengths = range(1, min(len(a), len(b)) + 1)
    return bisect.bisect_left(lengths, True, key=lambda n: a[:n] != b[:n])


def pack(sequences: Sequence[Tokens], share: int = MIN_SHARED) -> Pack:
    """Pack sorted sequences; share: the shortest prefix to share."""
    near = [shared_prefix(sequences[i], sequences[i + 1]) for i in range(len(sequences) - 1)]
    segments: list[Segment] = []
    ends = [-1] * len(sequences)

    def leaf(number: int, start: int, parent: int) -> None:
        if start == len(sequences[number]):
            ends[number] = parent
            return
        ends[number] = len(segments)
        segments.append(Segment(sequences[number][start:], start, parent))

    def branch(first: int, last: int, start: int, parent: int, depth: int) -> None:
        """Add the sequences first to last (excluded), which share the tokens before `start`."""
        while first < last:
            stop = first + 1
            while stop < last and near[stop - 1] - start >= share and depth < MAX_DEPTH:
                stop += 1
            if stop == first + 1:
                leaf(first, start, parent)
            else:
                end = min(near[first : stop - 1])
                segments.append(Segment(sequences[first][start:end], start, parent))
                branch(first, stop, end, len(segments) - 1, depth + 1)
            first = stop

    branch(0, len(sequences), 0, -1, 0)
    *offsets, total = itertools.accumulate((len(s.tokens) for s in segments), initial=0)
    return Pack(tuple(segments), tuple(offsets), tuple(ends), total)


def new_tokens(sequences: Sequence[Tokens], share: int = MIN_SHARED) -> list[int]:
    """Tokens that each of some sorted sequences adds to a pack of those before it."""
    fresh = []
    for i, sequence in enumerate(sequences):
        shared = shared_prefix(sequences[i - 1], sequence) if i else 0
        fresh.append(len(sequence) - (shared if shared >= share else 0))
    return fresh
