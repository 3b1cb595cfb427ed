"""What surrounds a command: an empty variable, a full disk, an ASCII terminal, no home, a quota."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from optlayers.cli import app
from optlayers.cli.local_workers import allocate
from optlayers.config import machine


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of a command line in this process."""
    monkeypatch.setattr(sys, "argv", ["optlayers", *arguments])
    with pytest.raises(SystemExit) as caught:
        app.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize("value", ["", " ", "\n"])
@pytest.mark.parametrize(
    "command", [["worker"], ["search"], ["status"], ["export-best"], ["doctor"], ["leaderboard"]]
)
def test_an_empty_storage_variable_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    command: list[str], value: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPTLAYERS_STORAGE", value)
    more = ["--out", "x"] if command == ["export-best"] else []
    assert run(monkeypatch, *command, *more) == 2
    assert "is empty; give a database URL" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_storage_option_counts_where_the_variable_is_empty(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPTLAYERS_STORAGE", "")
    assert run(monkeypatch, "status", "--storage", f"sqlite:///{tmp_path}/x.db") == 2
    assert "study 'demo' is not in sqlite:///" in capsys.readouterr().err
    assert run(monkeypatch, "status", "--storage", "") == 2
    assert "--storage is empty" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["studies"], ["studies", "--json"], ["--help"]])
def test_standard_output_on_a_full_disk_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run(monkeypatch, *arguments) == 1
    assert capsys.readouterr().err == (
        "optlayers: standard output: No space left on device; free some space, or write elsewhere\n"
    )


def test_output_of_a_check_that_fails_is_flushed_in_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        print("found")
        raise typer.Exit(1)

    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert app._exit_code(fail) == 1
    assert "No space left on device" in capsys.readouterr().err


def test_an_ascii_terminal_shows_any_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    study = tmp_path / "réseau.yaml"
    study.write_bytes((Path(__file__).parents[3] / "studies" / "demo.yaml").read_bytes())
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert run(monkeypatch, "studies", "--check", str(study)) == 0
    out.seek(0)
    assert "r\\xe9seau.yaml: valid" in out.read()


def test_a_missing_home_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody(number: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert run(monkeypatch, "init", "--base", "~/a", "--donor", "~/b") == 2
    assert "there is no home directory: HOME is not set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "250000 100000"}, 3),
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2),
        ("0::/not/mounted/here", {"cpu.max": "400000 100000"}, 4),
        (
            "5:cpu,cpuacct:/",
            {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"},
            1,
        ),
        ("1:cpu:/x", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, 8),
        ("4:memory:/", {"memory/cpu.max": "50000 100000"}, 8),
        ("0::/", {"cpu.max": "what"}, 8),
        ("", {}, 8),
    ],
)
def test_the_quota_of_a_container_counts_as_its_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, groups: str, files: dict[str, str], cores: int
) -> None:
    (tmp_path / "groups").write_text(f"{groups}\n")
    for name, text in files.items():
        (tmp_path / "mount" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mount" / name).write_text(f"{text}\n")
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "MOUNT", tmp_path / "mount")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert machine.cores() == cores
    found = allocate(["cpu"], None, None)
    assert len(found) == cores
    assert sum(worker.threads for worker in found) == cores
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    machine.limit_threads()
    assert os.environ.get("OMP_NUM_THREADS") == (str(cores) if cores < 8 else None)
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    machine.limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "6"
