"""`optlayers convert` as a command: several processes, kills, and its output elsewhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.donors import donor_in, write_text
from tests.helpers.paths import ROOT

TRAIN = ("--length", "32", "--batch", "128", "--state", "4", "--seed", "1")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CI": "1"}
ELSEWHERE = """
import json, sys
sys.modules['optlayers'] = None
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
print(json.dumps(model(torch.arange(1, 9)[None]).logits[0, -1].tolist()))
"""


def command(folder: Path, out: str, end_to_end: str = "512") -> list[str]:
    return [
        *("-m", "optlayers", "convert", str(folder / "donor"), "--out", str(folder / out)),
        *("--text", str(folder / "text.jsonl"), "--tokens", "2k", "--device", "cpu", "--json"),
        *(*TRAIN, "--end-to-end", end_to_end),
    ]


def run(arguments: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny donor, and text."""
    made = tmp_path_factory.mktemp("convert")
    donor_in(made / "donor")
    write_text(made / "text.jsonl")
    return made


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    return run(command(folder, "alone"))


def test_two_processes_train_as_one_with_the_same_batch(
    folder: Path, alone: dict[str, Any]
) -> None:
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    both = run([*launch, *command(folder, "both")])
    assert both["tokens"] == alone["tokens"]
    for key in ("layer_loss", "kl"):
        assert both[key] == pytest.approx(alone[key], rel=1e-4)


def test_a_killed_run_continues_when_the_command_is_repeated(
    folder: Path, alone: dict[str, Any]
) -> None:
    """Killed in its second stage; the first is not trained again."""
    arguments = command(folder, "killed", end_to_end="40k")
    process = subprocess.Popen(
        [sys.executable, *arguments], env=ENVIRONMENT, stdout=-1, stderr=-1, text=True
    )
    state = folder / ".killed.convert" / "layers.pt"
    end = time.monotonic() + 200
    while not state.is_file() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert state.is_file(), "no state was saved in time"
    assert not (folder / "killed").exists()
    found = run(arguments)
    assert found["tokens"] >= 42_000
    assert found["layer_loss"] == alone["layer_loss"]
    assert (folder / "killed" / "config.json").is_file()
    assert not state.parent.exists()


def test_the_base_loads_where_optlayers_is_not(folder: Path, alone: dict[str, Any]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    import optlayers.models  # noqa: F401 -- registers Llamba with the Auto classes

    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(folder / "alone")],
        env={**ENVIRONMENT, "PYTHONPATH": "", "HF_MODULES_CACHE": str(folder / "modules")},
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    here = AutoModelForCausalLM.from_pretrained(folder / "alone")
    logits = here(torch.arange(1, 9)[None]).logits[0, -1]
    assert torch.equal(torch.tensor(json.loads(done.stdout)), logits.detach())
