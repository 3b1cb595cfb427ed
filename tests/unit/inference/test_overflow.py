"""Weights beyond the range of float16 are refused wherever they are converted to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from optlayers.checkpoints.assembly import assemble
from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import SINGLE, Checkpoint
from optlayers.errors import ModelError
from optlayers.inference.loading import read_ends, read_side
from optlayers.inference.stack import LayerStack
from optlayers.layerset import LayerSet
from tests.helpers.tiny import export, tiny_llama

CPU, HALF = torch.device("cpu"), torch.float16
LARGEST = 65504.0

Use = Callable[[Parents, Path], object]


USES: dict[str, Use] = {
    "export": lambda parents, out: export(
        parents, LayerSet.of(1), out, dtype="float16", tokenizer=out.parent / "tokenizer"
    ),
    "load": lambda parents, _: assemble(parents, LayerSet.of(1), HALF),
    "eval": lambda parents, _: LayerStack.load(parents, CPU, HALF),
    "on a GPU": lambda parents, _: read_side(
        parents.base, range(6), "layer", CPU, HALF, lambda layer: True
    ),
    "ends": lambda parents, _: read_ends(parents.base, CPU, HALF),
}


@pytest.mark.parametrize("use", USES, ids=lambda use: use.replace(" ", "_"))
@pytest.mark.parametrize(("value", "fits"), [(LARGEST, True), (65600.0, False), (-1e9, False)])
def test_values_that_overflow_are_one_line_that_names_the_tensor(
    tiny_pair: Path, store: Path, tmp_path: Path, use: str, value: float, fits: bool
) -> None:
    tiny_llama().save_pretrained(tmp_path / "base")
    name = "lm_head.weight" if use == "ends" else "model.layers.2.mlp.up_proj.weight"
    weights = load_file(tmp_path / "base" / SINGLE)
    weights[name][3, 3] = value
    save_file(weights, tmp_path / "base" / SINGLE, metadata={"format": "pt"})
    (tmp_path / "tokenizer").symlink_to(tiny_pair / "donor")
    base = Checkpoint("base", tmp_path / "base")
    out = tmp_path / "out"
    if fits:
        USES[use](Parents(base, (base,)), out)
        return
    with pytest.raises(ModelError) as caught:
        USES[use](Parents(base, (base,)), out)
    line = str(caught.value)
    assert line.startswith(f"--dtype float16: tensor {name} holds values beyond 65504")
    assert line.endswith("choose bfloat16 or float32")
    assert not list(tmp_path.glob("*out*"))
    assert not list(store.rglob("*.safetensors"))


def test_nothing_is_looked_for_where_nothing_can_overflow(store: Path, tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    weights = load_file(tmp_path / SINGLE)
    weights["model.norm.weight"][0] = torch.inf
    save_file(weights, tmp_path / SINGLE, metadata={"format": "pt"})
    base = Checkpoint("base", tmp_path)
    LayerStack.load(Parents(base, (base,)), CPU, torch.bfloat16)
