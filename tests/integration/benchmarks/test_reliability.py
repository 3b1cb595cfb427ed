"""The long test of benchmarks/storage/reliability.py, shortened: workers die, nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.storage.reliability_checks import check
from benchmarks.storage.reliability_runs import Place, Run, search


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_search_whose_workers_are_killed_loses_nothing(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    sqlite = f"sqlite:///{tmp_path / 'optuna.db'}"
    url = sqlite if kind == "sqlite" else request.getfixturevalue("postgresql_url")
    run = Run(kind, workers=3, seconds=3.0, sets=16, kill_every=0.7, kill_busy=True)
    workers, figures = search(run, Place(url), tmp_path)
    check(run, url, tmp_path, workers, figures)
    assert run.faults == []
    assert figures.kills >= 3
    assert figures.lost >= 1
    assert figures.again >= 1, "no kill fell into an evaluation"
    assert figures.layer_sets >= 16


def test_the_checks_find_what_is_wrong(tmp_path: Path) -> None:
    run = Run("wrong", workers=1, seconds=0.1, sets=8)
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    workers, figures = search(run, Place(url), tmp_path)
    [log] = (tmp_path / "asked" / "0").glob("*.log")
    first, *_ = log.read_text().splitlines()
    with log.open("a") as asked:
        asked.write(f"{first}\n")
    check(run, url, tmp_path, workers, figures)
    assert len(run.faults) == 1
    assert "evaluated twice without a kill" in run.faults[0]
    # In the last call of a worker that was killed, it may be.
    workers.killed.add(0)
    run.faults.clear()
    check(run, url, tmp_path, workers, figures)
    assert run.faults == []
