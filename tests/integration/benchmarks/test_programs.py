"""Every benchmark starts, and those that can be small run small."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.commands import Commands
from tests.helpers.paths import ROOT

PROGRAMS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "benchmarks").rglob("*.py")
    if 'if __name__ == "__main__"' in path.read_text("utf-8")
)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_says_what_it_takes(program: str, commands: Commands, tmp_path: Path) -> None:
    done = commands.module(tmp_path, program, ["--help"])
    assert done.code == 0, done.err
    assert "--out" in done.out


def test_a_checkpoint_is_measured_small(commands: Commands, tmp_path: Path) -> None:
    words = ["--export-only", "--out", str(tmp_path)]
    done = commands.module(tmp_path, "benchmarks.checkpoints.checkpoint", words)
    assert done.code == 0, done.err
    assert "memory of the export" in (tmp_path / "checkpoint-demo-cpu.md").read_text()
