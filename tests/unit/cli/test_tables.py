"""Tables at every width, and in pipes: nothing of a layer set or a score is cut."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from optlayers.cli import patterns
from optlayers.cli.screen import Pace, Screen
from optlayers.cli.tables import broken, print_held_out, print_rows
from optlayers.layerset import Donors
from optlayers.results.view import StudyView
from optlayers.search import explain
from tests.helpers.finished import Finished, changed

NAMES = ("coder-of-a-name", "mathematician-x")
LAYERS = [f"{layer}@{NAMES[layer % 2]}" for layer in (13, 14, 17, 29)]
SET = ",".join(LAYERS)


def terminal(width: int) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def pipe() -> Console:
    return Console(file=io.StringIO(), width=80)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def with_long_names(found: Finished) -> list[Any]:
    """The rows of the leaderboard as those of two donors with long names."""
    return [
        dataclasses.replace(row, layers=LAYERS)
        for row in found.view.compare(found.view.leaderboard)
    ]


def rows(found: Finished, out: Console) -> None:
    print_rows(out, with_long_names(found)[:5], "the best", found.view.cost)


def held_out(found: Finished, out: Console) -> None:
    checked = [
        SimpleNamespace(
            name="best",
            layers=row.layers,
            score=row.score,
            ci_low=row.ci_low,
            ci_high=row.ci_high,
            questions=row.questions,
        )
        for row in with_long_names(found)[:2]
    ]
    print_held_out(out, checked, Donors(NAMES))  # type: ignore[arg-type]


def effects(found: Finished, out: Console) -> None:
    explained = explain(found.view.records, found.view.space)
    assert explained is not None
    space: Any = SimpleNamespace(text=lambda layers: SET)
    patterns._print_effects(out, explained.pairs, "pairs", 3, patterns.TOGETHER, space)
    patterns._print_patterns(out, explained, 3, space)


@pytest.mark.parametrize("show", [rows, held_out, effects])
@pytest.mark.parametrize("out", [pipe, *(lambda w=w: terminal(w) for w in (60, 80, 132, 200))])
def test_no_set_and_no_score_is_cut(
    finished: Finished, show: Callable[[Finished, Console], None], out: Callable[[], Console]
) -> None:
    console = out()
    show(finished, console)
    text = text_of(console)
    assert "…" not in text
    for layer in LAYERS:
        assert layer in text
    numbers = r"[+-]?\d+\.\d"
    wide = terminal(400)
    show(finished, wide)
    most, found = (set(re.findall(numbers, part)) for part in (text_of(wide), text))
    assert found
    assert found <= most
    if console.is_terminal and console.width >= 80:
        assert max(map(len, text.split("\n"))) <= console.width
    else:
        assert console.is_terminal or SET in text


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_live_screen_shows_whole_sets(finished: Finished, width: int) -> None:
    found = StudyView.of(finished.definition, finished.study)
    console = terminal(width)
    console.print(Screen(changed(found, best_of_size=with_long_names(finished)[:2]), [], Pace()))
    text = text_of(console)
    assert "…" not in text
    assert all(text.count(layer) == 2 for layer in LAYERS)
    assert max(map(len, text.split("\n"))) <= width


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("3,7", ["3,7"]),
        ("1@a,2@b,3@c", ["1@a,2@b,", "3@c"]),
        ("a few words here", ["a few", "words", "here"]),
        ("much-too-long-for-it", ["much-too-long-for-it"]),
        ("", [""]),
    ],
)
def test_text_is_broken_after_commas_and_spaces_alone(text: str, lines: list[str]) -> None:
    assert broken(text, 8).split("\n") == lines
