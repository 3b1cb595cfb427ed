"""A model that cannot be used is refused alike by every command, and nothing half-written stays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from tests.helpers.commands import Commands, Done
from tests.helpers.paths import DEMO_TASKS
from tests.helpers.tiny import STUDY

SINGLE = "model.safetensors"
Change = Callable[[Path], None]


def config(part: str, **changes: Any) -> Change:
    def change(pair: Path) -> None:
        path = pair / part / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def prefixed(part: str) -> Change:
    def change(pair: Path) -> None:
        tensors = load_file(pair / part / SINGLE)
        save_file({f"_orig_mod.{n}": t for n, t in tensors.items()}, pair / part / SINGLE)

    return change


def tokenizer_with_holes(pair: Path) -> None:
    core = Tokenizer(models.WordLevel({"a": 0, "b": 1, "far": 2000}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="b").save_pretrained(pair / "donor")


QUANTIZED = {"quant_method": "gptq", "bits": 4}
UNFIT: dict[str, tuple[Change, str]] = {
    "quantized base": (config("base", quantization_config=QUANTIZED), "quantization_config"),
    "quantized donor": (config("donor", quantization_config=QUANTIZED), "quantization_config"),
    "prefix in the donor": (prefixed("donor"), "without the prefix '_orig_mod.'"),
    "prefix in the base": (prefixed("base"), "without the prefix '_orig_mod.'"),
    "untied base without a head": (config("base", lm_head_bias=True), "lm_head.bias is missing"),
    "other heads in the donor": (config("donor", num_key_value_heads=4), "config.json asks for"),
    "dtype auto": (config("donor", dtype="auto"), "config.json: "),
    "unknown activation": (config("donor", hidden_act="wonder"), "wonder"),
    "ids beyond the embedding": (tokenizer_with_holes, "ids up to 2000 and base"),
}


@pytest.fixture
def pair(tiny_pair: Path, tmp_path: Path) -> Path:
    for part in ("base", "donor"):
        shutil.copytree(tiny_pair / part, tmp_path / "pair" / part)
    text = STUDY.format(file="s.yaml", pair="pair", tasks=DEMO_TASKS)
    (tmp_path / "s.yaml").write_text(text)
    return tmp_path / "pair"


def one_line(done: Done, code: int, words: str) -> None:
    assert done.code == code, done.err
    lines = [line for line in done.err.splitlines() if line.startswith("optlayers: ")]
    assert len(lines) == 1, done.err
    assert words in lines[0]
    assert "Traceback" not in done.err


@pytest.mark.parametrize("case", UNFIT, ids=lambda case: case.replace(" ", "_"))
def test_every_command_refuses_it_in_one_line(
    commands: Commands, pair: Path, tmp_path: Path, case: str
) -> None:
    change, words = UNFIT[case]
    change(pair)
    before = sorted(tmp_path.rglob("*"))
    for command in ("eval --layers 1", "export --layers 1 --out out", "fetch"):
        done = commands.run(tmp_path, [*command.split(), "--study", "s.yaml"], HF_HUB_OFFLINE="1")
        one_line(done, 2, words)
        assert done.out == ""
    done = commands.run(tmp_path, ["doctor", "--study", "s.yaml", "--json"], HF_HUB_OFFLINE="1")
    failed = [row["found"] for row in json.loads(done.out) if row["verdict"] == "fail"]
    assert done.code == 1
    assert len(failed) == 1
    assert words in failed[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_search_ends_with_the_reason(commands: Commands, pair: Path, tmp_path: Path) -> None:
    change, words = UNFIT["ids beyond the embedding"]
    change(pair)
    done = commands.run(tmp_path, ["search", "--study", "s.yaml", "--workers", "1"])
    assert done.code == 2, done.err
    assert words in done.err.splitlines()[-1]


def test_a_checkpoint_that_would_not_load_whole_is_not_verified(
    commands: Commands, pair: Path, tmp_path: Path
) -> None:
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
    commands: Commands, pair: Path, tmp_path: Path
) -> None:
    config("donor", num_hidden_layers=4)(pair)
    done = commands.run(tmp_path, ["doctor", "--study", "s.yaml", "--json"], HF_HUB_OFFLINE="1")
    rows = {row["what"]: row for row in json.loads(done.out)}
    assert done.code == 1
    assert rows["pair"]["verdict"] == "fail"
    assert "has 6 layers and donor" in rows["pair"]["found"]
