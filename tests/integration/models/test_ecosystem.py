"""Hybrids in the tools around transformers: devices, dtypes, saving, training."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from optlayers.layerset import LayerSet
from optlayers.models import LlambaForCausalLM
from tests.helpers.fresh import run_fresh
from tests.helpers.recurrence import logits, published_checkpoint
from tests.helpers.tiny import export, loud, parents_in, random_tokens

LAYERS = LayerSet.of(1, 4)


@pytest.fixture(scope="module")
def folder(tiny_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ecosystem") / "hybrid"
    return export(parents_in(tiny_pair), LAYERS, out)


@pytest.fixture(scope="module", params=["base", "hybrid"])
def model_folder(request: pytest.FixtureRequest, tiny_pair: Path, folder: Path) -> Path:
    return folder if request.param == "hybrid" else tiny_pair / "base"


HOW: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}


def test_accelerate_places_layers_on_disk_and_the_results_stay(
    model_folder: Path, tmp_path: Path
) -> None:
    whole = AutoModelForCausalLM.from_pretrained(model_folder)
    placed = AutoModelForCausalLM.from_pretrained(
        model_folder, device_map="auto", max_memory={"cpu": 400_000}, offload_folder=tmp_path
    )
    assert set(placed.hf_device_map.values()) == {"cpu", "disk"}
    # A layer that is cut in two would add what lies on two devices.
    assert not [name for name in placed.hf_device_map if re.search(r"layers\.\d+\.", name)]
    ids = random_tokens(2, 7)
    with torch.inference_mode():
        assert torch.equal(placed(ids).logits, whole(ids).logits)
    assert torch.equal(placed.generate(ids, **HOW), whole.generate(ids, **HOW))


def test_a_map_of_one_device_is_the_model(model_folder: Path) -> None:
    placed = AutoModelForCausalLM.from_pretrained(model_folder, device_map="cpu")
    whole = AutoModelForCausalLM.from_pretrained(model_folder)
    with torch.inference_mode():
        assert torch.equal(placed(random_tokens(1, 5)).logits, whole(random_tokens(1, 5)).logits)


def test_bfloat16_generates_and_stays_near_float32(model_folder: Path) -> None:
    narrow = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16)
    wide = AutoModelForCausalLM.from_pretrained(model_folder)
    ids = random_tokens(2, 9)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    made = narrow.generate(ids, attention_mask=mask, **HOW)
    assert made.shape == (2, 15)
    with torch.inference_mode():
        found = narrow(made).logits
        expected = wide(made).logits
        cached = narrow(made, use_cache=True)
        step = narrow(made[:, -1:], past_key_values=cached.past_key_values)
    assert found.dtype == torch.bfloat16
    assert step.logits.isfinite().all()
    assert float((found.float() - expected).std() / expected.std()) < 0.05


def test_beams_of_a_padded_batch_equal_beams_one_by_one(model_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    ids = random_tokens(2, 9)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    how = {**HOW, "num_beams": 3}
    both = model.generate(ids, attention_mask=mask, **how)[:, 9:]
    assert torch.equal(both[:1], model.generate(ids[:1], **how)[:, 9:])
    assert torch.equal(both[1:], model.generate(ids[1:, 4:], **how)[:, 5:])


def test_bfloat16_is_saved_and_loaded_as_it_is(model_folder: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    mine, theirs = model.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(theirs[name], tensor), name


def test_hidden_states_are_those_of_every_layer(model_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    with torch.no_grad():
        out = model(random_tokens(2, 7), output_hidden_states=True)
        plain = model(random_tokens(2, 7))
    assert len(out.hidden_states) == 7
    assert plain.hidden_states is None
    assert torch.equal(out.hidden_states[0], model.get_input_embeddings()(random_tokens(2, 7)))
    assert torch.equal(model.lm_head(out.hidden_states[-1]), plain.logits)


def test_tuples_and_config_outputs_are_as_in_other_models(model_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    ids = random_tokens(2, 7)
    with torch.no_grad():
        whole = model(ids, labels=ids)
        loss, logits, *_ = model(ids, labels=ids, return_dict=False)
        assert torch.equal(loss, whole.loss)
        assert torch.equal(logits, whole.logits)
        model.config.output_hidden_states = True
        assert len(model(ids).hidden_states) == 7


def test_assisted_generation_is_refused(model_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    with pytest.raises(ValueError, match="not supported with stateful models"):
        model.generate(random_tokens(1, 5), prompt_lookup_num_tokens=2, **HOW)


def test_prompts_on_one_cache_equal_one_long_prompt(model_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    first = model.generate(random_tokens(1, 5), return_dict_in_generate=True, **HOW)
    longer = torch.cat([first.sequences, random_tokens(1, 4)], 1)
    again = model.generate(longer, past_key_values=first.past_key_values, **HOW)
    assert torch.equal(again, model.generate(longer, **HOW))


STRANGER = """
import sys, torch
sys.modules['optlayers'] = None
from transformers import AutoModelForCausalLM
source, target, logits = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=True)
with torch.no_grad():
    for parameter in model.parameters():
        parameter.mul_(1.5)
model.save_pretrained(target, max_shard_size="100KB")
again = AutoModelForCausalLM.from_pretrained(target, trust_remote_code=True)
tokens = torch.tensor([[5, 6, 7, 8]])
with torch.inference_mode():
    expected = model(tokens).logits
    assert torch.equal(again(tokens).logits, expected)
torch.save(expected, logits)
"""


def test_a_model_trained_without_optlayers_loads_with_it(folder: Path, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    target = tmp_path / "trained"
    run_fresh(STRANGER, folder, target, tmp_path / "logits.pt", cwd=tmp_path, env=environment)
    expected = torch.load(tmp_path / "logits.pt", weights_only=True)
    with torch.inference_mode():
        found = AutoModelForCausalLM.from_pretrained(target)(torch.tensor([[5, 6, 7, 8]])).logits
    assert torch.equal(found, expected)


def test_saving_where_optlayers_is_writes_the_modeling_files_too(
    folder: Path, tmp_path: Path
) -> None:
    loud(AutoModelForCausalLM.from_pretrained(folder), 5).save_pretrained(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert {"hybrid.py", "families.py", "generation.py", "llamba.py", "ssd.py"} <= names
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["auto_map"]["AutoModelForCausalLM"] == "hybrid.HybridForCausalLM"


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_published_file_without_model_type_is_saved_with_it(tmp_path: Path, tied: bool) -> None:
    config, weights = published_checkpoint(tied=tied)
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = {name: torch.tensor(w, dtype=torch.float32) for name, w in weights.items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model, report = LlambaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    ids = [3, 1, 4, 1, 5]
    expected = torch.tensor(logits(ids, weights, config), dtype=torch.float32)
    torch.testing.assert_close(model(torch.tensor([ids])).logits[0], expected, rtol=1e-3, atol=1e-3)
    model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["model_type"] == "llamba"
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(torch.tensor([ids])).logits, model(torch.tensor([ids])).logits)
