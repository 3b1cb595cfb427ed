"""Packing: distinct sequences as segments, each token that several share laid out once.

Sequences that begin alike (the few-shot examples of a subject; one context before several
choices) share a segment; what follows branches off it. A pack holds no padding. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Tokens = tuple[int, ...]

# A shorter common beginning is not worth a branch. The convolution of a recurrent layer looks
# back three tokens, which a shared segment must hold.
MIN_SHARED = 8
MAX_DEPTH = 6
NO_SHARING = 1 << 30


@dataclass(frozen=True)
class Segment:
    """A run of tokens; `start` is the position of the first, `parent` what goes before (or -1)."""

    tokens: Tokens
    start: int
    parent: int


@dataclass(frozen=True)
class Pack:
    """Segments, parents before children; where they lie; and where each sequence ends.

    offsets: packed index of each segment's first token. ends: the last segment of each
    sequence. n_tokens: tokens laid out.
    """

    segments: tuple[Segment, ...]
    offsets: tuple[int, ...]
    ends: tuple[int, ...]
    n_tokens: int

    def index(self, row: int, position: int) -> int:
        """Packed index of a position of a sequence."""
        number = self.ends[row]
        while self.segments[number].start > position:
            number = self.segments[number].parent
        return self.offsets[number] + position - self.segments[number].start


def common(a: Tokens, b: Tokens) -> int:
    """Number of tokens with which both begin."""
    length = min(len(a), len(b))
    if a[:length] == b[:length]:
        return length
    low, high = 0, length  # a[:low] == b[:low], a[:high] != b[:high]
    while high - low > 1:
        middle = (low + high) // 2
        if a[:middle] == b[:middle]:
            low = middle
        else:
            high = middle
    return low


def pack(rows: Sequence[Tokens], share: int = MIN_SHARED) -> Pack:
    """Pack sequences that are sorted; `share` is the shortest beginning to share."""
    near = [common(rows[i], rows[i + 1]) for i in range(len(rows) - 1)]
    segments: list[Segment] = []
    ends = [-1] * len(rows)

    def leaf(row: int, start: int, parent: int) -> None:
        if start == len(rows[row]):
            ends[row] = parent
            return
        ends[row] = len(segments)
        segments.append(Segment(rows[row][start:], start, parent))

    def branch(first: int, last: int, start: int, parent: int, depth: int) -> None:
        """Lay out rows first to last (excluded), which agree on the tokens before `start`."""
        while first < last:
            stop = first + 1
            while stop < last and near[stop - 1] - start >= share and depth < MAX_DEPTH:
                stop += 1
            if stop == first + 1:
                leaf(first, start, parent)
            else:
                end = min(near[first : stop - 1])
                segments.append(Segment(rows[first][start:end], start, parent))
                branch(first, stop, end, len(segments) - 1, depth + 1)
            first = stop

    branch(0, len(rows), 0, -1, 0)
    offsets, total = [], 0
    for segment in segments:
        offsets.append(total)
        total += len(segment.tokens)
    return Pack(tuple(segments), tuple(offsets), tuple(ends), total)


def new_tokens(rows: Sequence[Tokens], share: int = MIN_SHARED) -> list[int]:
    """Tokens that each of the sorted sequences adds to a pack of those before it."""
    fresh = []
    for i, row in enumerate(rows):
        shared = common(rows[i - 1], row) if i else 0
        fresh.append(len(row) - (shared if shared >= share else 0))
    return fresh
