"""`optlayers report` through the real command line."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.helpers.commands import Commands, Done
from tests.helpers.finished import Finished

Report = Callable[..., Done]


@pytest.fixture
def report(commands: Commands, finished: Finished) -> Report:
    """Runs `optlayers report` of the finished study."""

    def here(*arguments: str, **environment: str) -> Done:
        words = ["report", "--study", str(finished.file), "--storage", finished.url, *arguments]
        return commands.run(finished.folder, words, **environment)

    return here


def test_the_format_follows_the_name_and_files_are_whole(
    finished: Finished, report: Report
) -> None:
    for name, begins in (("r.html", "<!doctype html>"), ("r.json", "{")):
        done = report("--out", name)
        assert done.code == 0, done.err
        text = (finished.folder / name).read_text("utf-8")
        assert text.startswith(begins)
        assert done.err.startswith(f"wrote {name}, ")
    assert (finished.folder / "r.html").stat().st_size < 5e6
    data = json.loads((finished.folder / "r.json").read_text("utf-8"))
    assert data["entries"][0]["layers"] == [2, 5, 7]
    assert not list(finished.folder.glob(".r.*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "none/r.html"], "--out none/r.html: not a file in an existing folder"),
        (["--baselines", "none.json"], "--baselines none.json: "),
        (["--images", "figures"], "images need Chrome or Chromium, and none was found"),
        (["--format", "pdf"], "pdf"),
    ],
)
def test_bad_input_is_one_line(
    finished: Finished, report: Report, arguments: list[str], said: str
) -> None:
    done = report(*arguments, PATH="/nonexistent", BROWSER_PATH="")
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert not (finished.folder / "report.html").exists()


def test_a_study_of_the_database_is_known_by_its_name(finished: Finished, report: Report) -> None:
    done = report("--study", "replayed", "--out", "named.md")
    assert done.code == 0, done.err
    assert "2, 5, 7" in (finished.folder / "named.md").read_text("utf-8")
    done = report("--study", "elsewhere")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "study 'elsewhere': neither a file nor a shipped study" in done.err
