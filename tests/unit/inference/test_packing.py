"""Packed sequences: shared prefixes once, nothing lost."""

from __future__ import annotations

import numpy as np
import pytest

from optlayers.inference.packing import MAX_DEPTH, NO_SHARING, Pack, new_tokens, pack, shared_prefix

Tokens = tuple[int, ...]


def unpacked(found: Pack, row: int) -> Tokens:
    tokens: Tokens = ()
    number = found.ends[row]
    while number >= 0:
        tokens = found.segments[number].tokens + tokens
        number = found.segments[number].parent
    return tokens


def tree(rng: np.random.Generator, count: int) -> list[Tokens]:
    """Sequences that branch at random places, sorted and distinct."""
    rows: list[Tokens] = [()]
    for _ in range(count):
        old = rows[int(rng.integers(len(rows)))]
        cut = int(rng.integers(0, len(old) + 1))
        rows.append(old[:cut] + tuple(int(t) for t in rng.integers(0, 9, int(rng.integers(1, 60)))))
    return sorted(set(rows) - {()})


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("share", [3, 16, NO_SHARING])
def test_every_sequence_is_found_again_token_by_token(seed: int, share: int) -> None:
    rows = tree(np.random.default_rng(seed), 40)
    found = pack(rows, share)
    laid = [token for segment in found.segments for token in segment.tokens]
    assert found.n_tokens == len(laid)
    for r, row in enumerate(rows):
        assert unpacked(found, r) == row
        assert tuple(laid[found.index(r, t)] for t in range(len(row))) == row
    for i, segment in enumerate(found.segments):
        assert segment.parent < i
        assert segment.tokens
        if segment.parent >= 0:
            parent = found.segments[segment.parent]
            assert segment.start == parent.start + len(parent.tokens)
            assert len(parent.tokens) >= share


def test_a_shared_context_is_packed_once() -> None:
    context = tuple(range(100))
    rows = sorted(context + (200 + i,) * 7 for i in range(5))
    found = pack(rows)
    assert found.n_tokens == 100 + 5 * 7 == sum(new_tokens(rows))
    assert pack(rows, NO_SHARING).n_tokens == 5 * 107 == sum(new_tokens(rows, NO_SHARING))


def test_a_sequence_that_begins_another_ends_in_its_segment() -> None:
    rows = [tuple(range(30)), tuple(range(40))]
    found = pack(rows)
    assert [len(s.tokens) for s in found.segments] == [30, 10]
    assert found.ends == (0, 1)


def test_branches_are_bounded_in_depth() -> None:
    rows = [tuple(range(20 * n)) for n in range(1, 30)]
    found = pack(rows)
    depth = [0] * len(found.segments)
    for i, segment in enumerate(found.segments):
        depth[i] = 0 if segment.parent < 0 else depth[segment.parent] + 1
    assert max(depth) <= MAX_DEPTH
    assert [unpacked(found, r) for r in range(len(rows))] == rows


def test_the_shared_prefix_is_the_longest() -> None:
    assert shared_prefix((1, 2, 3), (1, 2, 4)) == 2
    assert shared_prefix((1, 2), (1, 2, 4)) == 2
    assert shared_prefix((), (1,)) == 0
    assert shared_prefix((5,), (1,)) == 0
