"""A model that cannot be used is refused alike by every command, and nothing half-written stays."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from optlayers.cli.app import main
from tests.helpers.unfit import UNFIT, damaged


@pytest.mark.parametrize("case", UNFIT, ids=lambda case: case.replace(" ", "_"))
def test_every_command_refuses_it_in_one_line(
    tiny_pair: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: str,
) -> None:
    change, words = UNFIT[case]
    damaged(tiny_pair, tmp_path, change)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for command in ("eval --layers 1", "export --layers 1 --out out", "fetch"):
        monkeypatch.setattr(sys, "argv", ["optlayers", *command.split(), "--study", "s.yaml"])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert ended.value.code == 2, err
        lines = [line for line in err.splitlines() if line.startswith("optlayers: ")]
        assert len(lines) == 1, err
        assert words in lines[0]
        assert "Traceback" not in err
        assert out == ""
    assert sorted(tmp_path.rglob("*")) == before
