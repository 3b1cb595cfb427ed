"""`optlayers report` through the real command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from finished import Finished


def report(
    finished: Finished, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "optlayers", "report", "--study", str(finished.file),
         "--storage", finished.url, *arguments],
        cwd=finished.folder, env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


def test_the_format_follows_the_name_and_files_are_whole(finished: Finished) -> None:
    for name, begins in (("r.html", "<!doctype html>"), ("r.json", "{")):
        done = report(finished, "--out", name)
        assert done.returncode == 0, done.stderr
        text = (finished.folder / name).read_text("utf-8")
        assert text.startswith(begins)
        assert done.stderr.startswith(f"wrote {name}, ")
    assert (finished.folder / "r.html").stat().st_size < 5e6
    data = json.loads((finished.folder / "r.json").read_text("utf-8"))
    assert data["entries"][0]["layers"] == [2, 5, 7]
    assert not list(finished.folder.glob(".r.*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "none/r.html"], "--out none/r.html: not a file in a folder that exists"),
        (["--baselines", "none.json"], "--baselines none.json: "),
        (["--images", "figures"], "images need Chrome or Chromium and none is here"),
        (["--format", "pdf"], "pdf"),
    ],
)
def test_bad_input_is_one_line(finished: Finished, arguments: list[str], said: str) -> None:
    done = report(finished, *arguments, PATH="/nonexistent", BROWSER_PATH="")
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (finished.folder / "report.html").exists()
