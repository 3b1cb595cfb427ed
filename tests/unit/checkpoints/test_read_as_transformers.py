"""Unusual folders give what transformers loads from them, or are refused by every reader alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config

from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import ADAPTER, INDEX, SINGLE, Checkpoint, ModelConfig
from optlayers.errors import ModelError
from optlayers.layerset import LayerSet
from tests.helpers.families import KINDS, tiny
from tests.helpers.tiny import (
    TOKENS,
    VOCAB,
    WIDTH,
    export,
    model_logits,
    stack_logits,
    tiny_llama,
    tiny_llamba,
)

Tensors = dict[str, torch.Tensor]
Change = Callable[[Path], None]


def config(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def tensors(change: Callable[[Tensors], Tensors]) -> Change:
    def write(folder: Path) -> None:
        found = change(load_file(folder / SINGLE))
        save_file(found, folder / SINGLE, metadata={"format": "pt"})

    return write


def without(part: str) -> Change:
    return tensors(lambda found: {name: t for name, t in found.items() if part not in name})


def renamed(change: Callable[[str], str]) -> Change:
    return tensors(lambda found: {change(name): t for name, t in found.items()})


def plus(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Change:
    return tensors(lambda found: {**found, name: torch.ones(*shape).to(dtype)})


def both(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def stale_index(folder: Path) -> None:
    lost = {"model.embed_tokens.weight": "model-00001-of-00002.safetensors"}
    (folder / INDEX).write_text(json.dumps({"weight_map": lost}))


def index_of_other_shards(folder: Path) -> None:
    shard = "model-00001-of-00001.safetensors"
    save_file({n: t * 2 for n, t in load_file(folder / SINGLE).items()}, folder / shard)
    names = dict.fromkeys(load_file(folder / SINGLE), shard)
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))


def index_that_lacks_names(folder: Path) -> None:
    found = load_file(folder / SINGLE)
    (folder / SINGLE).rename(folder / "part.safetensors")
    index = {"metadata": {}, "weight_map": {min(found): "part.safetensors"}}
    (folder / INDEX).write_text(json.dumps(index))


def a_tensor_in_two_shards(folder: Path) -> None:
    found = load_file(folder / SINGLE)
    (folder / SINGLE).rename(folder / "a.safetensors")
    name = "model.layers.2.mlp.up_proj.weight"
    save_file({name: found[name] * 2}, folder / "b.safetensors", metadata={"format": "pt"})
    names = dict.fromkeys(found, "a.safetensors") | {"model.norm.weight": "b.safetensors"}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))


LIKE_TRANSFORMERS: dict[str, Change] = {
    "one file beside an index of other shards": index_of_other_shards,
    "one file beside a stale index": stale_index,
    "an index that lacks names": index_that_lacks_names,
    "a tensor in two shards": a_tensor_in_two_shards,
    "names of the model without its head": renamed(lambda name: name.removeprefix("model.")),
    "names with the prefix twice": renamed(lambda name: f"model.{name}"),
    "tied, with another head in the file": config(tie_word_embeddings=True),
    "tied, with the head alone": both(config(tie_word_embeddings=True), without("embed_tokens")),
    "tied, with the embedding alone": both(config(tie_word_embeddings=True), without("lm_head")),
    "a left-over bias of the head": plus("lm_head.bias", VOCAB),
    "old buffers": plus("model.layers.0.self_attn.rotary_emb.inv_freq", 4),
    "a bias that the config does not have": plus("model.layers.0.self_attn.q_proj.bias", 32),
    "an unneeded tensor in eight bits": plus("extra", 8, dtype=torch.float8_e8m0fnu),
    "an unneeded complex tensor": plus("freqs", 8, dtype=torch.complex64),
    "layers beyond the config": config(num_hidden_layers=4),
    "an unknown field": config(wonder=1),
}


@pytest.mark.parametrize("case", LIKE_TRANSFORMERS, ids=lambda case: case.replace(" ", "_"))
def test_a_base_is_read_as_transformers_reads_it_and_exported_so(
    tmp_path: Path, tiny_pair: Path, case: str
) -> None:
    tiny_llama(seed=5).save_pretrained(tmp_path / "base")
    LIKE_TRANSFORMERS[case](tmp_path / "base")
    expected = model_logits(tmp_path / "base")
    base, none = Checkpoint("base", tmp_path / "base"), LayerSet.of()
    # An odd donor is read in the same way: taking its layers into itself changes nothing.
    itself = Parents(base, (base,))
    tokenizer = tiny_pair / "donor"
    assert torch.equal(stack_logits(itself, none), expected)
    for layers, name in ((none, "none"), (LayerSet.of(0, 2), "some")):
        out = export(itself, layers, tmp_path / name, tokenizer=tokenizer)
        assert torch.equal(model_logits(out), expected)
        _, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
        assert not any(report.values()), report


TIED = {
    "other": both(without("lm_head"), plus("lm_head.weight", VOCAB, WIDTH)),
    "alone": renamed(lambda name: "lm_head.weight" if "embed" in name else name),
    "embedding": without("lm_head"),
}


@pytest.mark.parametrize("head", TIED)
@pytest.mark.parametrize("kind", ["falcon_h1", "gemma2", "llamba", "qwen2"])
def test_a_tied_head_is_what_transformers_makes_of_it_in_every_family(
    tmp_path: Path, tiny_pair: Path, kind: str, head: str
) -> None:
    model = tiny_llamba(tied=True) if kind == "llamba" else tiny(kind, 3, tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "base")
    TIED[head](tmp_path / "base")
    expected = model_logits(tmp_path / "base")
    base = Checkpoint("base", tmp_path / "base")
    parents = Parents(base, (base,))
    assert base.has("lm_head.weight") is (head == "other")
    assert torch.equal(stack_logits(parents, LayerSet.of()), expected)
    out = export(parents, LayerSet.of(3), tmp_path / "out", tokenizer=tiny_pair / "donor")
    assert torch.equal(model_logits(out), expected)


def test_only_unknown_tensors_of_new_models_are_worth_a_note(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    plus("model.layers.0.self_attn.rotary_emb.inv_freq", 4)(tmp_path)
    assert Checkpoint("base", tmp_path).note is None
    plus("model.layers.0.self_attn.q_proj.bias", 32)(tmp_path)
    note = Checkpoint("base", tmp_path).note
    assert note is not None
    assert "hold 1 tensors that the model has no place for, such as model.layers.0.self_" in note


WEIGHTS: dict[str, tuple[Change, str]] = {
    "no head": (without("lm_head"), "tensor lm_head.weight is missing .* does not tie it"),
    "tied without both": (
        both(config(tie_word_embeddings=True), without("lm_head"), without("embed_tokens")),
        "tensor model.embed_tokens.weight is missing",
    ),
    "no embedding": (without("embed_tokens"), "tensor model.embed_tokens.weight is missing"),
    "no norm": (without("model.norm"), "tensor model.norm.weight is missing"),
    "a layer too few": (without("layers.5"), r"tensor model.layers.5\..* is missing"),
    "a padded embedding": (config(vocab_size=1000), r"\(1024, 32\); config.json asks for \(1000"),
    "other heads": (config(num_key_value_heads=4), r"k_proj.weight has shape \(16, 32\)"),
    "biases that are not there": (config(mlp_bias=True), r"mlp.gate_proj.bias is missing"),
    **{
        f"prefix {prefix}": (
            renamed(lambda name, prefix=prefix: prefix + name),  # type: ignore[misc]
            f"which have {prefix}model.embed_tokens.weight; save them without .* '{prefix}'",
        )
        for prefix in ("_orig_mod.", "base_model.model.", "language_model.", "module.")
    },
    **{
        f"{part} in the place of weights": (
            renamed(lambda name, part=part: name.replace("up_proj.weight", f"up_proj.{part}")),  # type: ignore[misc]
            f"which have model.layers.0.mlp.up_proj.{part}; merge adapters, or dequantize",
        )
        for part in ("qweight", "weight_packed", "base_layer.weight")
    },
    **{
        f"weights in {dtype}": (
            tensors(
                lambda found, dtype=dtype: {  # type: ignore[misc]
                    n: t.to(dtype) if "mlp" in n else t for n, t in found.items()
                }
            ),
            "mlp.gate_proj.weight holds .* scales of a quantization; use weights in",
        )
        for dtype in (torch.int8, torch.uint8, torch.float8_e4m3fn)
    },
}


@pytest.mark.parametrize("case", WEIGHTS, ids=lambda case: case.replace(" ", "_"))
def test_weights_that_do_not_fit_the_config_are_one_line(tmp_path: Path, case: str) -> None:
    change, words = WEIGHTS[case]
    tiny_llama().save_pretrained(tmp_path)
    change(tmp_path)
    with pytest.raises(ModelError, match=words) as caught:
        Checkpoint("base", tmp_path)
    line = str(caught.value)
    assert line.startswith("model base: tensor ")
    assert "\n" not in line
    assert len(line) < 300


QUANTIZED = {
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "model.dequantize()"),
    "compressed-tensors": ({"quant_method": "compressed-tensors"}, "CompressedTensorsConfig("),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "FineGrainedFP8Config("),
    "gptq": ({"quant_method": "gptq", "bits": 4}, "use the model that it was made from"),
    "awq": ({"quant_method": "awq", "bits": 4}, "use the model that it was made from"),
    "odd": ({"bits": 4}, "use the model that it was made from"),
}


@pytest.mark.parametrize("method", QUANTIZED)
def test_a_quantized_model_is_refused_with_how_to_dequantize_it(
    tmp_path: Path, method: str
) -> None:
    settings, words = QUANTIZED[method]
    tiny_llama().save_pretrained(tmp_path)
    config(quantization_config=settings)(tmp_path)
    for kind in (ModelConfig, Checkpoint):
        with pytest.raises(ModelError) as caught:
            kind("base", tmp_path)
        line = str(caught.value)
        assert "\n" not in line
        assert "config.json: quantization_config: the weights are quantized" in line
        assert words in line


CONFIGS = {
    "dtype auto": config(dtype="auto"),
    "torch_dtype auto": config(dtype=None, torch_dtype="auto"),
    "dtype unknown": config(dtype="wonder"),
    "hidden_act": config(hidden_act="wonder"),
    "rope type": config(rope_parameters={"rope_type": "wonder", "rope_theta": 1e4}),
    "old rope type": config(rope_parameters=None, rope_scaling={"type": "wonder", "factor": 2.0}),
    "no width of heads": config(head_dim=0),
    "no heads": config(num_attention_heads=0),
    "no layers": config(num_hidden_layers=0),
    "layers below none": config(num_hidden_layers=-1),
    "text for a number": config(rms_norm_eps="small"),
    "another file of weights": config(transformers_weights="other.safetensors"),
}


@pytest.mark.parametrize("case", CONFIGS, ids=lambda case: case.replace(" ", "_"))
def test_a_config_that_makes_no_model_is_one_line(tmp_path: Path, case: str) -> None:
    tiny_llama().save_pretrained(tmp_path)
    CONFIGS[case](tmp_path)
    with pytest.raises(ModelError, match=r"^model base: config\.json: ") as caught:
        ModelConfig("base", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("mistral-window", {"sliding_window": 0}, "sliding_window is 0; it is a whole number"),
        ("gemma2", {"sliding_window": None}, "sliding_window is None"),
        ("qwen3", {"layer_types": ["sliding_attention"] * 6}, "sliding_window is None"),
        ("qwen3", {"layer_types": ["wonder"] * 6}, "wonder"),
        ("bamba", {"mamba_chunk_size": 0}, "mamba_chunk_size is 0"),
        ("bamba", {"mamba_n_heads": 0}, ""),
        ("llamba", {"norm_epsilon": "small"}, "norm_epsilon is 'small'; it is a number"),
        ("llamba", {"mlp_cfg": {"act_fn": "wonder"}}, "wonder"),
        ("llamba", {"ssm_cfg": {"n_v_heads": 3}}, "n_v_heads 3 must be a multiple of"),
    ],
)
def test_a_config_that_makes_no_model_is_one_line_in_every_family(
    tmp_path: Path, kind: str, changes: dict[str, Any], words: str
) -> None:
    model = tiny_llamba() if kind == "llamba" else tiny(kind, 3)
    model.save_pretrained(tmp_path)
    Checkpoint("base", tmp_path)
    config(**changes)(tmp_path)
    with pytest.raises(ModelError, match=rf"^model base: config\.json: .*{words}") as caught:
        Checkpoint("base", tmp_path)
    assert "\n" not in str(caught.value)


def test_attention_of_a_package_that_is_missing_is_not_needed(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    expected = model_logits(tmp_path)
    config(attn_implementation="flash_attention_2")(tmp_path)
    base = Checkpoint("base", tmp_path)
    assert torch.equal(stack_logits(Parents(base, (base,)), LayerSet.of()), expected)


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    (tmp_path / ADAPTER).write_text("{}")
    with pytest.raises(ModelError, match="adapter of another model; merge the two"):
        Checkpoint("base", tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_has_its_tensors_as_transformers_saves_them(tmp_path: Path, kind: str) -> None:
    model = tiny(kind, 3)
    model.save_pretrained(tmp_path)
    checkpoint = Checkpoint(kind, tmp_path)
    assert not checkpoint.others
    assert checkpoint.expected.tied is bool(model.config.tie_word_embeddings)
    held = {name: tuple(t.shape) for name, t in load_file(tmp_path / SINGLE).items()}
    assert held == {name: checkpoint.entry(name).shape for name in checkpoint.names()}
    assert torch.equal(
        stack_logits(Parents(checkpoint, (checkpoint,)), LayerSet.of()),
        model(torch.tensor(TOKENS)).logits,
    )


def test_what_transformers_dequantizes_is_read(tmp_path: Path) -> None:
    tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "fp8")
    whole = load_file(tmp_path / "fp8" / SINGLE)
    found: Tensors = {}
    for name, tensor in whole.items():
        scale = tensor.abs().max() / 448
        scaled = "_proj" in name
        found[name] = (tensor / scale).to(torch.float8_e4m3fn) if scaled else tensor
        found |= {f"{name}_scale_inv": scale.reshape(1, 1)} if scaled else {}
    save_file(found, tmp_path / "fp8" / SINGLE, metadata={"format": "pt"})
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    config(quantization_config=settings)(tmp_path / "fp8")
    with pytest.raises(ModelError, match="quantization_config"):
        Checkpoint("fp8", tmp_path / "fp8")
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "fp8",
        quantization_config=FineGrainedFP8Config(dequantize=True),
        dtype=torch.float32,
    )
    model.save_pretrained(tmp_path / "whole", save_original_format=False)
    checkpoint = Checkpoint("whole", tmp_path / "whole")
    assert checkpoint.note is None
    for name, tensor in whole.items():
        torch.testing.assert_close(checkpoint.tensor(name), tensor, rtol=0.1, atol=0.01)
