"""The live display of a search, on a terminal and on a pipe."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from optlayers.cli.live import LiveView, Rate, can_redraw
from optlayers.cli.screen import LocalWorker, Pace, Screen, line, present
from optlayers.results.view import StudyView
from optlayers.storage.heartbeat import process_name
from optlayers.trials.worker_state import WorkerState
from tests.helpers.finished import Finished, changed
from tests.helpers.replay import definition, study_in


def on_terminal(block: object) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=160, color_system=None)
    console.print(block)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def worker(name: str = "far/1-2:7:1", **more: object) -> WorkerState:
    return WorkerState(name, **{"device": "cuda:0", "state": "explore: 16 layer sets", **more})  # type: ignore[arg-type]


def test_the_screen_shows_progress_best_sets_and_workers(finished: Finished) -> None:
    found = StudyView.of(finished.definition, finished.study)
    workers = [worker(seen=time.time(), questions=500, seconds=2.0)]
    now = changed(found, workers=workers, savings=found.savings, phase="refine")
    local = [LocalWorker("cpu", "loading models")]
    text = on_terminal(Screen(now, local, Pace(1234.0, 5678.0, 75.0)))
    f = found.funnel
    for part in (
        "replayed", "✓ validate", "● refine",
        f"{f.proposed} proposed, {f.fast} fast, {f.raced_out} raced out, {f.full} full",
        f"{f.refined} refined", "[2,5,7]", "of 1", "of 2", "of 3",
        "1,234 questions/s", "5,678 layer passes/s", "about 75 s left",
        "% by racing", "by shared prefixes",
        "far 7 cuda:0: explore: 16 layer sets, 250 questions/s",
        "cpu: loading models",
    ):  # fmt: skip
        assert part in text, part


def test_a_line_says_the_same_briefly(finished: Finished) -> None:
    found = StudyView.of(finished.definition, finished.study)
    text = line(found, [], Pace(10.0, 20.0, None))
    assert text.startswith("done: ")
    assert "[2,5,7], 10 questions/s, 20 layer passes/s" in text
    assert "\n" not in text


def test_before_the_first_result_a_line_shows_the_workers(tmp_path: Path) -> None:
    found = StudyView.of(definition(), study_in(tmp_path))
    assert line(found, [LocalWorker("cpu", "loading tasks")], Pace()).endswith(
        "starting: cpu: loading tasks"
    )
    assert "no worker yet" in line(found, [], Pace())


def test_workers_that_have_left_are_not_shown_and_silent_ones_are_marked() -> None:
    mine = process_name()
    host, pid, start = mine.rsplit(":", 2)
    states = [
        worker(mine),
        worker(f"{host}:{pid}:{int(start) + 1}"),  # its number was given to another
        worker("a:1:1", state="done"),
        worker("b:1:1", state="left: time is up"),
        worker("c:1:1", seen=time.time() - 1000),
    ]
    assert {w.name for w in present(states)} == {mine, "c:1:1"}


def test_the_rate_is_of_the_last_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rate = Rate()

    def look(second: float, questions: int) -> float | None:
        now[0] = 100.0 + second
        return rate(questions)

    assert look(0, 0) is None
    for second, questions in ((10, 1000), (35, 3000)):
        look(second, questions)
    # The first two looks are out of the window of 30 s.
    assert look(45, 4000) == pytest.approx(100.0)
    # While a cohort takes longer than the window, the rate falls, but never to zero.
    for second in range(46, 136):
        found = look(second, 4000)
    assert found == pytest.approx(1000 / 100)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_screen_fits_every_terminal(finished: Finished, width: int) -> None:
    found = StudyView.of(finished.definition, finished.study)
    many = [worker(f"far/1-2:{i}:1", seen=time.time()) for i in range(40)]
    now = changed(found, workers=many, savings=found.savings)
    console = Console(
        file=io.StringIO(), force_terminal=True, width=width, height=24, color_system=None
    )
    console.print(Screen(now, [], Pace(1234.0, 5678.0, 75.0)))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) <= 24
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert f"{found.funnel.refined} refined" in text
    assert "by shared prefixes" in text
    assert text.endswith(" more")
    for row in found.best_of_size:
        assert f"[{','.join(map(str, row.layers))}]" in text
    # The interval of the best, drawn where there is room.
    assert ("─●" in text) == (width > 60)


def test_only_a_capable_terminal_outside_of_ci_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("CI", raising=False)
    assert can_redraw(Console(file=Terminal(), force_terminal=True))
    # What FORCE_COLOR does to a pipe.
    assert not can_redraw(Console(file=io.StringIO(), force_terminal=True))
    monkeypatch.setenv("TERM", "dumb")
    assert not can_redraw(Console(file=Terminal(), force_terminal=True))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("CI", "true")
    assert not can_redraw(Console(file=Terminal(), force_terminal=True))


def test_a_log_has_no_line_twice_and_one_at_the_end(finished: Finished) -> None:
    ended = StudyView.of(finished.definition, finished.study)
    counts = dict.fromkeys(ended.trial_counts, 0)
    begun = changed(ended, phase="starting", trial_counts=counts)
    out = io.StringIO()
    shown = LiveView(Console(file=out))
    for found in (begun, begun, ended):
        for _ in range(3):
            shown._next_line = 0.0 if found is begun else shown._next_line
            shown.show(found, [LocalWorker("cpu", "starting")])
    starts = [text.partition(":")[0] for text in out.getvalue().splitlines()]
    assert starts == ["starting", "done"]
