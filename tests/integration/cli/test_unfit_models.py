"""Models that cannot be used, in the commands that start processes: doctor, search, verify."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.helpers.commands import Commands, Done
from tests.helpers.unfit import QUANTIZED, SINGLE, UNFIT, config, damaged


def one_line(done: Done, code: int, words: str) -> None:
    assert done.code == code, done.err
    lines = [line for line in done.err.splitlines() if line.startswith("optlayers: ")]
    assert len(lines) == 1, done.err
    assert words in lines[0]
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "case", ["quantized donor", "prefix in the base", "ids beyond the embedding"]
)
def test_doctor_says_what_the_others_say(
    commands: Commands, tiny_pair: Path, tmp_path: Path, case: str
) -> None:
    change, words = UNFIT[case]
    damaged(tiny_pair, tmp_path, change)
    done = commands.run(tmp_path, ["doctor", "--study", "s.yaml", "--json"], HF_HUB_OFFLINE="1")
    failed = [row["found"] for row in json.loads(done.out) if row["verdict"] == "fail"]
    assert done.code == 1
    assert len(failed) == 1
    assert words in failed[0]


def test_a_search_ends_with_the_reason(commands: Commands, tiny_pair: Path, tmp_path: Path) -> None:
    change, words = UNFIT["ids beyond the embedding"]
    damaged(tiny_pair, tmp_path, change)
    done = commands.run(tmp_path, ["search", "--study", "s.yaml", "--workers", "1"])
    assert done.code == 2, done.err
    assert words in done.err.splitlines()[-1]


def test_a_checkpoint_that_would_not_load_whole_is_not_verified(
    commands: Commands, tiny_pair: Path, tmp_path: Path
) -> None:
    damaged(tiny_pair, tmp_path, lambda pair: None)

    def run(*words: str) -> Done:
        return commands.run(tmp_path, [*words, "--study", "s.yaml"], HF_HUB_OFFLINE="1")

    assert run("export", "--layers", "1", "--out", "out").code == 0
    # As an earlier version wrote it, which did not look.
    info = json.loads((tmp_path / "out" / "checkpoint_info.json").read_text())
    (tmp_path / "out" / "checkpoint_info.json").write_text(json.dumps({**info, "files": {}}))
    whole = load_file(tmp_path / "out" / SINGLE)
    lost = {n: t for n, t in whole.items() if n != "lm_head.weight"}
    save_file(lost, tmp_path / "out" / SINGLE, metadata={"format": "pt"})
    one_line(run("verify", "out"), 2, "tensor lm_head.weight is missing from the weights")
    save_file(whole, tmp_path / "out" / SINGLE, metadata={"format": "pt"})
    path = tmp_path / "out" / "config.json"
    settings = json.loads(path.read_text())
    settings["donor_config"]["quantization_config"] = QUANTIZED
    path.write_text(json.dumps(settings))
    one_line(run("verify", "out"), 2, "quantization_config: the weights are quantized (gptq)")


def test_a_pair_of_different_depth_fails_in_doctor(
    commands: Commands, tiny_pair: Path, tmp_path: Path
) -> None:
    damaged(tiny_pair, tmp_path, config("donor", num_hidden_layers=4))
    done = commands.run(tmp_path, ["doctor", "--study", "s.yaml", "--json"], HF_HUB_OFFLINE="1")
    rows = {row["what"]: row for row in json.loads(done.out)}
    assert done.code == 1
    assert rows["pair"]["verdict"] == "fail"
    assert "has 6 layers and donor" in rows["pair"]["found"]
