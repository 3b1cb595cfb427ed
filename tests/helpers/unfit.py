"""Faults of models that every command refuses alike, and a pair to damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from tests.helpers.paths import DEMO_TASKS
from tests.helpers.tiny import STUDY

SINGLE = "model.safetensors"
Change = Callable[[Path], None]


def config(part: str, **changes: Any) -> Change:
    """Change the config of one of the two."""

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


def damaged(tiny_pair: Path, folder: Path, change: Change) -> None:
    """Write a copy of the tiny pair with a fault, and the study `s.yaml` over it."""
    for part in ("base", "donor"):
        shutil.copytree(tiny_pair / part, folder / "pair" / part)
    text = STUDY.format(file="s.yaml", pair="pair", tasks=DEMO_TASKS)
    (folder / "s.yaml").write_text(text)
    change(folder / "pair")
