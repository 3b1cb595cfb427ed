"""Watching a study that others run, and its errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.helpers.replay import STUDY, study_in, url_in, worker_in


def test_watching_a_study_that_others_run_ends_with_it(tmp_path: Path) -> None:
    file = tmp_path / "replayed.yaml"
    file.write_text(f"{STUDY}seed: 0\n")
    study_in(tmp_path)
    watching = subprocess.Popen(
        [sys.executable, "-m", "optlayers", "status", "--study", str(file), "--watch",
         "--storage", url_in(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    worker_in(tmp_path, seconds=0.0001).run()
    out, err = watching.communicate(timeout=60)
    assert watching.returncode == 0, err
    lines = out.splitlines()
    assert lines[-1].startswith("done: ")
    assert "[2,5,7]" in lines[-1]
    assert "\x1b" not in out


def test_a_view_that_renews_itself_is_no_json() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "optlayers", "status", "--watch", "--json"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--watch and --json" in done.stderr
