"""A base and a donor of random weights, in the formats and shard sizes of the published ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Say = Callable[[str], None]
SHARD_BYTES = 5_000_000_000
# width, layers, heads, key heads, inner width, vocabulary, state, value heads
SHAPES = {
    "demo": (128, 16, 4, 2, 256, 2048, 2, 2),
    "llamba-1b": (2048, 16, 32, 8, 8192, 128256, 64, 32),
    "llamba-8b": (4096, 32, 32, 8, 14336, 128256, 64, 32),
}


def configs(shape: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """`config.json` of base and donor."""
    width, layers, heads, keys, inner, vocab, state, values = SHAPES[shape]
    base = {
        "model_type": "llamba",
        "vocab_size": vocab,
        "d_model": width,
        "n_layer": layers,
        "tie_embeddings": False,
        "pad_vocab_size_multiple": 8,
        "lm_head_bias": False,
        "norm_epsilon": 1e-5,
        "mlp_cfg": {"intermediate_size": inner, "bias": False, "act_fn": "silu"},
        "ssm_cfg": {
            "d_state": state,
            "n_v_heads": values,
            "n_qk_heads": values,
            "expand": 1,
            "chunk_size": 128,
            "activation": "identity",
            "bias": False,
        },
    }
    donor = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "intermediate_size": inner,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": [1, 2],
    }
    return base, donor


def _shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names and shapes of all tensors, in the order of the published files."""
    llamba = config["model_type"] == "llamba"
    width = config["d_model" if llamba else "hidden_size"]
    inner = config["mlp_cfg"]["intermediate_size"] if llamba else config["intermediate_size"]
    vocab = config["vocab_size"]
    start = "backbone" if llamba else "model"
    yield f"{start}.{'embedding' if llamba else 'embed_tokens'}.weight", (vocab, width)
    for i in range(config["n_layer" if llamba else "num_hidden_layers"]):
        at = f"{start}.layers.{i}"
        yield f"{at}.input_layernorm.weight", (width,)
        if llamba:
            ssm = config["ssm_cfg"]
            channels = width + 2 * ssm["n_qk_heads"] * ssm["d_state"]
            yield f"{at}.mixer.in_proj.weight", (channels + width + ssm["n_v_heads"], width)
            yield f"{at}.mixer.z_bias", (width,)
            yield f"{at}.mixer.conv1d.weight", (channels, 1, 4)
            yield f"{at}.mixer.conv1d.bias", (channels,)
            yield f"{at}.mixer.D", (ssm["n_v_heads"],)
            yield f"{at}.mixer.out_proj.weight", (width, width)
        else:
            keys = width * config["num_key_value_heads"] // config["num_attention_heads"]
            for name, rows in (("q", width), ("k", keys), ("v", keys), ("o", width)):
                yield f"{at}.self_attn.{name}_proj.weight", (rows, width)
        yield f"{at}.post_attention_layernorm.weight", (width,)
        yield f"{at}.mlp.gate_proj.weight", (inner, width)
        yield f"{at}.mlp.up_proj.weight", (inner, width)
        yield f"{at}.mlp.down_proj.weight", (width, inner)
    yield f"{start}.{'final_layernorm' if llamba else 'norm'}.weight", (width,)
    yield "lm_head.weight", (vocab, width)


def _draw(
    name: str, size: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype
) -> torch.Tensor:
    """Random values of a size that keeps activations near 1."""
    device = generator.device
    if name.endswith(("layernorm.weight", "norm.weight", ".D")):
        return torch.ones(size, dtype=dtype)
    scale = {1: 0.02, 2: size[-1] ** -0.5, 3: 0.5}[len(size)]
    if name.endswith(("embedding.weight", "embed_tokens.weight")):
        scale = 1.0
    values = torch.empty(size, dtype=dtype, device=device)
    return values.normal_(0.0, scale, generator=generator).cpu()


def pair_bytes(shape: str, dtype: str) -> int:
    """Bytes of weights of base and donor together."""
    width = getattr(torch, dtype).itemsize
    return sum(width * math.prod(size) for c in configs(shape) for _, size in _shapes(c))


def _plan(config: dict[str, Any], width: int) -> list[list[tuple[str, tuple[int, ...]]]]:
    """The tensors of each file; width: bytes of a value."""
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    filled = 0
    for name, size in _shapes(config):
        count = width * math.prod(size)
        if shards[-1] and filled + count > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append((name, size))
        filled += count
    return shards


def _write(
    folder: Path, config: dict[str, Any], seed: int, device: str, dtype: str, say: Say
) -> int:
    """One model; its bytes of weights."""
    folder.mkdir(parents=True)
    kind = getattr(torch, dtype)
    generator = torch.Generator(device).manual_seed(seed)
    shards = _plan(config, kind.itemsize)
    total, where = 0, {}
    for number, shard in enumerate(shards, start=1):
        file = "model.safetensors"
        if len(shards) > 1:
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: _draw(name, size, generator, kind) for name, size in shard}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        total += sum(tensor.nbytes for tensor in tensors.values())
        where.update(dict.fromkeys(tensors, file))
        say(f"{folder.name}/{file}")
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({**config, "dtype": dtype}))
    return total


def make_pair(
    folder: Path, shape: str, device: str, dtype: str, say: Say = lambda file: None
) -> int:
    """Write `base/` and `donor/` (with a tokenizer) into a folder; their bytes of weights.

    say: told of every file of weights that is written.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    base, donor = configs(shape)
    total = _write(folder / "base", base, 0, device, dtype, say)
    total += _write(folder / "donor", donor, 1, device, dtype, say)
    # Names of their own for the special tokens: they are cut out of any word that holds them.
    special = {1: "<eos>", 3: "<pad>"}
    words = {special.get(i, f"t{i}"): i for i in range(base["vocab_size"])}
    core = Tokenizer(models.WordLevel(words, unk_token="t0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
    tokenizer.save_pretrained(folder / "donor")
    (folder / "donor" / "generation_config.json").write_text(
        json.dumps({"bos_token_id": 0, "eos_token_id": [1, 2], "pad_token_id": 3})
    )
    return total
