"""Long values in parts that every database keeps whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from optlayers.storage.parts import HEAD, LONGEST, join, split

LIMIT = 65_535  # bytes of a text in MySQL


@pytest.mark.parametrize(
    "value",
    [
        "a" * 400_000,
        '"' * 100_000,
        "\\" * 70_000,
        "ä" * 50_000,
        list(range(50_000)),
        {"answers": "b" * 2 * LONGEST, "score": 0.5},
    ],
)
def test_every_part_is_short_and_together_they_are_the_value(value: Any) -> None:
    parts = split("key", value)
    texts = [json.dumps(part) for part in parts.values()]
    assert len(parts) > 2
    assert max(len(text.encode()) for text in texts) <= LIMIT
    assert list(parts)[-1] == "key"  # written last
    assert texts[-1].startswith(HEAD)
    assert join({"other": 1, **parts}) == {"other": 1, "key": value}


@pytest.mark.parametrize("value", [None, True, 1, 0.5, "", "a" * 59_000, [1, 2], {"a": 1}])
def test_a_short_value_stays_as_it_is(value: Any) -> None:
    assert split("key", value) == {"key": value}
    assert join({"key": value}) == {"key": value}


def test_a_value_that_is_just_being_replaced_is_left_out() -> None:
    old, new = split("key", "a" * 100_000), split("key", "b" * 100_000)
    assert join({**old, "key/0": new["key/0"]}) == {}
    del old["key/1"]
    assert join(old) == {}
