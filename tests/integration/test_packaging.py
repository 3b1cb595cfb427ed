"""Wheel and sdist: what is in them, and the demo from an installation outside the repository."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.paths import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def build(source: Path, out: Path, *targets: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(out), *targets],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder: Path = tmp_path_factory.mktemp("dist")
    build(ROOT, folder, "-t", "sdist")
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    build(folder / sdist.name.removesuffix(".tar.gz"), folder, "-t", "wheel")
    return folder


def test_the_wheel_holds_the_package_and_the_studies_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    inside = {n for n in names if ".dist-info/" not in n}
    code = {p.relative_to(ROOT).as_posix() for p in (ROOT / "optlayers").rglob("*.py")}
    assert code <= inside
    for name in ("report/page.js", "report/page.css", "report/page.html.j2", "py.typed"):
        assert f"optlayers/{name}" in inside
    for path in (ROOT / "studies").rglob("*"):
        if path.is_file() and not {"__pycache__", "build"} & set(path.parts):
            assert f"optlayers/{path.relative_to(ROOT).as_posix()}" in inside
    assert all(name.startswith("optlayers/") for name in inside)
    assert not any("demo/build" in name for name in inside)
    assert not any("__pycache__" in name or ".db" in name for name in inside)
    assert wheel.stat().st_size < 20_000_000


def test_the_demo_runs_from_the_wheel_outside_the_repository(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    # Empty but for the wheel; what it depends on is lent by this environment, whose own
    # editable install is not seen: a path in a .pth file does not bring that folder's .pth files.
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True)
    lent = sysconfig.get_paths()["purelib"]
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(lent)
    away = tmp_path / "away"
    away.mkdir()
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [str(tmp_path / "venv" / "bin" / "optlayers"), *arguments],
            cwd=away,
            env=env,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run(
        [str(python), "-c", "from optlayers.config.study import STUDIES as s; print(s)"],
        cwd=away, env=env, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    assert Path(where) == site / "optlayers" / "studies"
    # The whole search with recorded answers, then the real models and tasks.
    (away / "replay.yaml").write_text(f"landscape: {where}/demo/landscape.npz")
    search = ("search", "--devices", "cpu", "--workers", "1", "--replay", "replay.yaml")
    assert "0,10,11,15" in run(*search)
    assert "on 16 questions" in run("eval", "--layers", "10", "--limit", "2")
    assert {path.name for path in away.iterdir()} <= {
        "replay.yaml", "optuna.db", "optuna.db-shm", "optuna.db-wal", "optuna-artifacts",
    }  # fmt: skip


def test_every_extra_is_named_where_it_is_missed_and_pinned_where_it_is_tested() -> None:
    extras = PROJECT["optional-dependencies"]
    assert {"postgres", "mysql", "modelscope", "gpu"} <= set(extras)
    source = "".join(p.read_text("utf-8") for p in (ROOT / "optlayers").rglob("*.py"))
    for extra in set(extras) - {"dev"}:
        assert f"optlayers[{extra}]" in source, f"no message tells to install [{extra}]"
    pinned = (ROOT / "constraints.txt").read_text("utf-8").lower().replace("_", "-")
    for extra in set(extras) - {"modelscope", "gpu"}:
        for need in extras[extra]:
            name = re.split(r"[\[<>=;]", need)[0].lower()
            if name != "optlayers" and not name.startswith("types-"):
                assert f"\n{name}==" in pinned, f"{name} of [{extra}] is not in constraints.txt"


def test_what_the_package_imports_it_depends_on() -> None:
    import ast

    of_project = {
        re.split(r"[\[<>=;]", need)[0].lower().replace("_", "-")
        for needs in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
        for need in needs
    }
    owners = importlib.metadata.packages_distributions()
    for path in (ROOT / "optlayers").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                if top in sys.stdlib_module_names or top == "optlayers" or top not in owners:
                    continue
                found = {owner.lower().replace("_", "-") for owner in owners[top]}
                assert found & of_project, f"{path.name} imports {top} of {found}"
