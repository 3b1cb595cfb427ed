"""Model families: how to build, name and call one decoder layer of each kind of model.

A family is what a hybrid needs to know of a model class. To add one, add a `Family` to
`FAMILIES`; nothing else in optlayers names a model class. Shapes: B batch, T tokens, E hidden
size. This file needs torch, transformers and `llamba.py` alone, so that it travels with an
exported checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig
from transformers import models as transformers_models
from transformers.cache_utils import Cache
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from .llamba import LlambaBlock, LlambaConfig

Rotary = tuple[torch.Tensor, torch.Tensor]


@dataclass
class LayerInputs:
    """What a layer may need beside its hidden states; None means nothing of the kind.

    causal_mask is transformers' attention mask (None: plain causal attention);
    padding_mask [B, T] is 0 at padding; rotary holds cos and sin [B or 1, T, head width].
    """

    rotary: Rotary | None = None
    causal_mask: torch.Tensor | None = None
    padding_mask: torch.Tensor | None = None
    position_ids: torch.Tensor | None = None
    past_key_values: Cache | None = None


def _call_llama(layer: nn.Module, h: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
    out: torch.Tensor = layer(
        h,
        attention_mask=inputs.causal_mask,
        position_ids=inputs.position_ids,
        position_embeddings=inputs.rotary,
        past_key_values=inputs.past_key_values,
    )
    return out


def _call_llamba(layer: nn.Module, h: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
    out: torch.Tensor = layer(h, inputs.padding_mask, past_key_values=inputs.past_key_values)
    return out


def _llama_norm(config: Any) -> nn.Module:
    norm: nn.Module = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
    return norm


@dataclass(frozen=True)
class Family:
    """One kind of model: the names of its parts in a checkpoint, and how to make and call them.

    `kind` is the layer's kind in the words of transformers' caches.
    """

    kind: str
    embedding: str
    layers: str
    norm: str
    head: str
    build_layer: Callable[[Any, int], nn.Module]
    build_norm: Callable[[Any], nn.Module]
    build_rotary: Callable[[Any], nn.Module] | None
    call: Callable[[nn.Module, torch.Tensor, LayerInputs], torch.Tensor]


def _plain(module: str, name: str) -> Family:
    """A family of transformers whose decoder is shaped and called as Llama's.

    module: its folder in transformers; name: how its classes begin. They are imported when they
    are first needed, since most studies need one or two families.
    """

    def make(part: str) -> Any:
        package = getattr(transformers_models, module)
        return getattr(getattr(package, f"modeling_{module}"), f"{name}{part}")

    def norm(config: Any) -> nn.Module:
        made: nn.Module = make("RMSNorm")(config.hidden_size, eps=config.rms_norm_eps)
        return made

    return Family(
        kind="full_attention",
        embedding="model.embed_tokens",
        layers="model.layers",
        norm="model.norm",
        head="lm_head",
        build_layer=lambda config, index: make("DecoderLayer")(config, index),
        build_norm=norm,
        build_rotary=lambda config: make("RotaryEmbedding")(config=config),
        call=_call_llama,
    )


FAMILIES: dict[str, Family] = {
    "mistral": _plain("mistral", "Mistral"),
    "olmo2": _plain("olmo2", "Olmo2"),
    "phi3": _plain("phi3", "Phi3"),
    "qwen2": _plain("qwen2", "Qwen2"),
    "qwen3": _plain("qwen3", "Qwen3"),
    "smollm3": _plain("smollm3", "SmolLM3"),
    "llama": Family(
        kind="full_attention",
        embedding="model.embed_tokens",
        layers="model.layers",
        norm="model.norm",
        head="lm_head",
        build_layer=LlamaDecoderLayer,
        build_norm=_llama_norm,
        build_rotary=LlamaRotaryEmbedding,
        call=_call_llama,
    ),
    "llamba": Family(
        kind="linear_attention",
        embedding="backbone.embedding",
        layers="backbone.layers",
        norm="backbone.final_layernorm",
        head="lm_head",
        build_layer=LlambaBlock,
        build_norm=_llama_norm,
        build_rotary=None,
        call=_call_llamba,
    ),
}


def config_from_dict(data: dict[str, Any]) -> PreTrainedConfig:
    """The transformers config of a `config.json`; an old Llamba file may lack its model type.

    Raises `ValueError` for a model type that has no family.
    """
    model_type = data.get("model_type") or ("llamba" if "ssm_cfg" in data else None)
    rest = {k: v for k, v in data.items() if k not in ("model_type", "auto_map")}
    if model_type is None:
        raise ValueError("no model_type is named; add it, such as llama")
    if model_type not in FAMILIES:
        raise _no_family(model_type)
    if model_type == "llamba":
        return LlambaConfig(**rest)
    config = AutoConfig.for_model(model_type, **rest)
    _check_attention(config)
    return config


def _check_attention(config: Any) -> None:
    """Raise `ValueError` for attention in windows, which no family runs yet."""
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    # Where a config names no kinds, a window holds for every layer.
    if "sliding_attention" in kinds if kinds is not None else window is not None:
        raise ValueError(
            f"model_type {config.model_type!r} with sliding_window {window} has no adapter; "
            "choose a model of full attention, or add a Family to optlayers/models/families.py"
        )


def _no_family(model_type: object) -> ValueError:
    known = ", ".join(sorted(FAMILIES))
    return ValueError(
        f"model_type {model_type!r} has no adapter (there is one for {known}); "
        "add a Family to optlayers/models/families.py"
    )


def family_of(config: Any) -> Family:
    """The family of a config; raises `ValueError` naming the file to add one to."""
    if config.model_type not in FAMILIES:
        raise _no_family(config.model_type)
    return FAMILIES[config.model_type]


def embedding_rows(config: Any) -> int:
    """Rows of the embedding table in the checkpoint: Llamba pads its vocabulary."""
    return int(getattr(config, "padded_vocab_size", config.vocab_size))
