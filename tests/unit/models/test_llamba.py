from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from optlayers.checkpoints.parents import Parents, check_pair
from optlayers.checkpoints.reader import Checkpoint
from optlayers.errors import ModelError
from optlayers.inference.stack import LayerStack
from optlayers.models import LlambaConfig, LlambaForCausalLM
from optlayers.models.llamba import LlambaBlock
from tests.helpers.recurrence import Array, logits, mixer, published_checkpoint
from tests.helpers.tiny import tiny_llamba

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]
# transformers' RMS norm works in float32 whatever it is given; all else here is float64.
CLOSE = 1e-5


def write(folder: Path, config: dict[str, Any], weights: dict[str, Array]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: torch.tensor(w, dtype=torch.float32) for name, w in weights.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def published(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Array]:
    """A folder in the published format without model type, and its logits on `TOKENS`."""
    # An epsilon of its own shows that only the last norm follows the config.
    config, weights = published_checkpoint(tied=request.param, eps=1e-3)
    return write(tmp_path / "llamba", config, weights), logits(TOKENS, weights, config)


def test_a_published_checkpoint_gives_the_logits_of_the_plain_recurrence(
    published: tuple[Path, Array],
) -> None:
    folder, expected = published
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "llamba", **config}))
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, output_loading_info=True
    )
    assert isinstance(model, LlambaForCausalLM)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    found = model(torch.tensor([TOKENS])).logits[0].detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("length", [1, 3, 4, 140])
def test_the_mixer_equals_the_plain_recurrence_in_float64(length: int) -> None:
    config, weights = published_checkpoint(tied=False)
    start = "backbone.layers.1."
    layer = {k.removeprefix(start): w for k, w in weights.items() if k.startswith(start)}
    block = LlambaBlock(LlambaConfig(**config), 1).double()
    block.load_state_dict({name: torch.tensor(w) for name, w in layer.items()})
    u = np.random.default_rng(length).normal(size=(length, config["d_model"]))
    found = block.mixer(torch.tensor(u)[None])[0].detach().numpy()
    expected = mixer(u, layer, config["ssm_cfg"])
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_a_file_without_model_type_loads_with_the_llamba_classes(
    published: tuple[Path, Array],
) -> None:
    folder, expected = published
    assert "model_type" not in json.loads((folder / "config.json").read_text())
    model = LlambaForCausalLM.from_pretrained(folder, dtype=torch.float64)
    found = model(torch.tensor([TOKENS])).logits[0].detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=CLOSE, atol=CLOSE)


def test_a_file_without_model_type_loads_through_the_checkpoint_reader(
    published: tuple[Path, Array],
) -> None:
    folder, expected = published
    checkpoint = Checkpoint("published", folder)
    stack = LayerStack.load(Parents(checkpoint, (checkpoint,)), torch.device("cpu"), torch.float64)
    h, inputs = stack.begin(torch.tensor([TOKENS]))
    for layer in range(stack.n_layers):
        h = stack.run(layer, bool(layer % 2), h, inputs)
    np.testing.assert_allclose(stack.logits(h)[0].numpy(), expected, rtol=CLOSE, atol=CLOSE)


def test_the_published_8b_config_gives_the_published_shapes() -> None:
    config = LlambaConfig(vocab_size=128256)
    with torch.device("meta"):
        block = LlambaBlock(config, 0)
    shapes = {name: tuple(p.shape) for name, p in block.state_dict().items()}
    assert shapes["mixer.in_proj.weight"] == (4096 + 2 * 32 * 64 + 4096 + 32, 4096)
    assert shapes["mixer.conv1d.weight"] == (4096 + 2 * 32 * 64, 1, 4)
    assert shapes["mixer.D"] == (32,)
    assert shapes["mlp.down_proj.weight"] == (4096, 14336)
    assert len(shapes) == 11


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="n_v_heads 4 must be a multiple of n_qk_heads 3"):
        LlambaBlock(LlambaConfig(d_model=16, ssm_cfg={"n_v_heads": 4, "n_qk_heads": 3}), 0)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_saving_and_loading_again_is_lossless(tmp_path: Path, tied: bool) -> None:
    model = tiny_llamba(tied=tied)
    model.save_pretrained(tmp_path)
    names = set(Checkpoint("saved", tmp_path).names())
    assert ("lm_head.weight" in names) is not tied
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokens = torch.tensor([TOKENS])
    assert torch.equal(model(tokens).logits, again(tokens).logits)
    for (name, mine), (_, theirs) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert torch.equal(mine, theirs), name


def test_a_wrong_tensor_shape_is_one_line_with_both_shapes(tmp_path: Path) -> None:
    config, weights = published_checkpoint(tied=False)
    weights["backbone.layers.1.mixer.z_bias"] = np.zeros(15)
    folder = write(tmp_path / "bent", config, weights)
    with pytest.raises(ModelError, match=r"mixer\.z_bias has shape \(15,\).*asks for \(16,\)") as e:
        Checkpoint("bent", folder)
    assert "\n" not in str(e.value)
    assert "bent: tensor backbone.layers.1" in str(e.value)


def test_a_missing_tensor_is_named_and_an_unknown_one_is_left_out(tmp_path: Path) -> None:
    config, weights = published_checkpoint(tied=False)
    lost = weights.pop("backbone.layers.0.mixer.D")
    with pytest.raises(ModelError, match=r"lossy.*mixer\.D is missing"):
        Checkpoint("lossy", write(tmp_path / "lossy", config, weights))
    weights |= {"backbone.layers.0.mixer.D": lost, "backbone.layers.0.mixer.E": lost}
    extra = Checkpoint("extra", write(tmp_path / "extra", config, weights))
    assert extra.others == ["backbone.layers.0.mixer.E"]
    assert not extra.has("backbone.layers.0.mixer.E")


def test_the_stack_and_the_model_agree_to_the_last_bit(
    tiny_pair: Path, tiny_parents: Parents
) -> None:
    stack = LayerStack.load(tiny_parents, torch.device("cpu"), torch.float32)
    tokens = torch.tensor([TOKENS, TOKENS[::-1]])
    for side, folder in ((False, "base"), (True, "donor")):
        model = AutoModelForCausalLM.from_pretrained(tiny_pair / folder)
        h, inputs = stack.begin(tokens)
        for layer in range(stack.n_layers):
            h = stack.run(layer, side, h, inputs)
        with torch.inference_mode():
            assert torch.equal(stack.logits(h), model(tokens).logits)


def test_models_of_different_depth_or_width_do_not_fit(tiny_pair: Path, tmp_path: Path) -> None:
    config, weights = published_checkpoint(tied=False)
    small = Checkpoint("small", write(tmp_path / "small", config, weights))
    donor = Checkpoint("donor", tiny_pair / "donor")
    with pytest.raises(ModelError, match="base small has 2 layers and donor donor has 6"):
        check_pair(small, donor)
    small.config.n_layer = 6
    with pytest.raises(ModelError, match="base small has 16 hidden size and donor donor has 32"):
        check_pair(small, donor)
    check_pair(donor, donor)
    assert Parents(donor, (donor,)).n_layers == 6
