"""Model families: how to build, name and call one decoder layer of each kind of model.

A family is what a hybrid needs to know of a model class. To add one, add a `Family` to
`FAMILIES`; nothing else in optlayers names a model class. docs/families.md walks through one.
Shapes: B batch, T tokens, E hidden size. Imports torch, transformers, `parts.py` and `llamba.py`
only, since this file is copied into exported checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig
from transformers import initialization as init
from transformers import models as transformers_models
from transformers.cache_utils import Cache
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from .llamba import LlambaBlock, LlambaConfig
from .parts import (
    Call,
    LayerHalves,
    LayerInputs,
    Rotary,
    ScaledEmbedding,
    call_attention,
    call_attention_and_mamba,
    call_attention_or_mamba,
    masks,
    mix_attention_and_mamba,
    mix_llamba,
    softcap,
)


def _call_llamba(layer: Any, h: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
    out: torch.Tensor = layer(h, inputs.padding_mask, past_key_values=inputs.past_key_values)
    return out


def _llama_norm(config: Any) -> nn.Module:
    norm: nn.Module = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
    return norm


def _all_full(config: Any) -> list[str]:
    return ["full_attention"] * int(config.num_hidden_layers)


def _all_windowed(config: Any) -> list[str]:
    """A config without `layer_types`: its window, if any, holds for every layer."""
    kind = "full_attention" if config.sliding_window is None else "sliding_attention"
    return [kind] * int(config.num_hidden_layers)


def _from_config(config: Any) -> list[str]:
    return list(config.layer_types)


@dataclass(frozen=True)
class Family:
    """One kind of model: the names of its parts in a checkpoint, and how to make and call them.

    kinds: the kind of each layer, as transformers' caches name it. call: runs a whole layer.
    scale: the multiplier of the embedding (None: 1), and whether it is rounded to the dtype of the
    weights. finish: what is done to the logits after the head.
    """

    build_layer: Callable[[Any, int], nn.Module]
    build_norm: Callable[[Any], nn.Module]
    build_rotary: Callable[[Any], nn.Module | None] | None
    halves: LayerHalves
    embedding: str = "model.embed_tokens"
    layers: str = "model.layers"
    norm: str = "model.norm"
    head: str = "lm_head"
    kinds: Callable[[Any], list[str]] = _all_full
    call: Call = call_attention
    scale: Callable[[Any], tuple[float, bool] | None] = lambda config: None
    finish: Callable[[Any, torch.Tensor], torch.Tensor] = lambda config, logits: logits

    def build_embedding(self, config: Any) -> nn.Embedding:
        """The embedding table, with the family's scale where it has one."""
        rows, width = embedding_rows(config), config.hidden_size
        scale = self.scale(config)
        return nn.Embedding(rows, width) if scale is None else ScaledEmbedding(rows, width, *scale)

    def inputs(
        self,
        config: Any,
        rotary: nn.Module | None,
        kind: str,
        h: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: Any = None,
        cache: Cache | None = None,
        layer: int | None = None,
    ) -> LayerInputs:
        """The inputs of layers of one kind other than h [B, T, E]; see `parts.masks`."""
        cos_sin: Rotary | None = None
        if rotary is not None:
            # Some models have an embedding of positions for each kind of layer.
            by_kind = (kind,) if hasattr(rotary, "layer_types") else ()
            cos_sin = rotary(h, position_ids, *by_kind)
        # Without a mask or a cache, transformers would search the positions for packed sequences.
        packed = None if attention_mask is None and cache is None else position_ids
        causal, padding = masks(config, kind, h, attention_mask, cache, layer, packed)
        return LayerInputs(cos_sin, causal, padding, position_ids, cache)


PRE_NORM = LayerHalves(("input_layernorm", None), ("post_attention_layernorm", None))
POST_NORM = LayerHalves((None, "post_attention_layernorm"), (None, "post_feedforward_layernorm"))
BOTH_NORMS = LayerHalves(
    ("input_layernorm", "post_attention_layernorm"),
    ("pre_feedforward_layernorm", "post_feedforward_layernorm"),
)
MAMBA_AND_ATTENTION = LayerHalves(
    ("input_layernorm", None),
    ("pre_ff_layernorm", None),
    mixers=("mamba", "self_attn"),
    mlp="feed_forward",
)


def _like_llama(module: str, name: str, **more: Any) -> Family:
    """A family of transformers like Llama, except for the fields in `more`.

    module: its folder in transformers. name: the prefix of its classes, which are imported when
    first used.
    """

    def make(part: str) -> Callable[..., nn.Module]:
        package = getattr(transformers_models, module)
        made: Callable[..., nn.Module] = getattr(
            getattr(package, f"modeling_{module}"), f"{name}{part}"
        )
        return made

    family = Family(
        build_layer=lambda config, index: make("DecoderLayer")(config, index),
        build_norm=lambda config: make("RMSNorm")(config.hidden_size, eps=config.rms_norm_eps),
        build_rotary=lambda config: make("RotaryEmbedding")(config=config),
        halves=PRE_NORM,
    )
    return replace(family, **more)


def _sqrt_width(config: Any) -> tuple[float, bool]:
    return float(config.hidden_size) ** 0.5, True


def _embedding_multiplier(config: Any) -> tuple[float, bool] | None:
    scale = float(config.embedding_multiplier)
    return None if scale == 1.0 else (scale, False)


GEMMA: dict[str, Any] = {
    "kinds": _from_config,
    "halves": BOTH_NORMS,
    "scale": _sqrt_width,
    "finish": softcap,
}
_bamba = _like_llama("bamba", "Bamba")
_falcon = _like_llama("falcon_h1", "FalconH1")
_granite = _like_llama("granitemoehybrid", "GraniteMoeHybrid")


def _bamba_layer(config: Any, index: int) -> nn.Module:
    from transformers.models.bamba.modeling_bamba import BambaDecoderLayer

    layer: nn.Module = BambaDecoderLayer(config, index, config.layers_block_type[index])
    return layer


def _falcon_layer(config: Any, index: int) -> nn.Module:
    from transformers.models.falcon_h1.modeling_falcon_h1 import compute_mup_vector

    layer: Any = _falcon.build_layer(config, index)
    # The whole model hands this to its layers. As a buffer it moves with the layer.
    with torch.device("cpu"):
        vector = compute_mup_vector(config)
    layer.mamba.register_buffer("mup_vector", vector, persistent=False)
    layer.mamba.mup_config = config
    made: nn.Module = layer
    return made


def _granite_rotary(config: Any) -> nn.Module | None:
    """Most Granite 4 models have no position embedding."""
    if config.position_embedding_type != "rope" or _granite.build_rotary is None:
        return None
    return _granite.build_rotary(config)


FAMILIES: dict[str, Family] = {
    "bamba": replace(
        _bamba,
        build_layer=_bamba_layer,
        norm="model.final_layernorm",
        kinds=_from_config,
        call=call_attention_or_mamba,
        halves=MAMBA_AND_ATTENTION,
    ),
    "falcon_h1": replace(
        _falcon,
        build_layer=_falcon_layer,
        norm="model.final_layernorm",
        kinds=_from_config,
        call=call_attention_and_mamba,
        halves=replace(MAMBA_AND_ATTENTION, mix=mix_attention_and_mamba),
        scale=_embedding_multiplier,
        finish=lambda config, logits: logits * config.lm_head_multiplier,
    ),
    "gemma2": _like_llama("gemma2", "Gemma2", **GEMMA),
    "gemma3_text": _like_llama("gemma3", "Gemma3", **GEMMA),
    "granitemoehybrid": replace(
        _granite,
        build_rotary=_granite_rotary,
        kinds=_from_config,
        call=call_attention_or_mamba,
        halves=replace(PRE_NORM, mixers=("mamba", "self_attn"), mlp="shared_mlp"),
        scale=_embedding_multiplier,
        finish=lambda config, logits: logits / config.logits_scaling,
    ),
    "llama": _like_llama("llama", "Llama"),
    "llamba": Family(
        build_layer=LlambaBlock,
        build_norm=_llama_norm,
        build_rotary=None,
        halves=replace(PRE_NORM, mixers=("mixer",), mix=mix_llamba),
        embedding="backbone.embedding",
        layers="backbone.layers",
        norm="backbone.final_layernorm",
        kinds=_from_config,
        call=_call_llamba,
    ),
    "mistral": _like_llama("mistral", "Mistral", kinds=_all_windowed),
    "olmo2": _like_llama("olmo2", "Olmo2", halves=POST_NORM),
    "phi3": _like_llama("phi3", "Phi3", kinds=_all_windowed),
    "qwen2": _like_llama("qwen2", "Qwen2", kinds=_from_config),
    "qwen3": _like_llama("qwen3", "Qwen3", kinds=_from_config),
    "smollm3": _like_llama("smollm3", "SmolLM3", kinds=_from_config),
}

# Known model types that do not fit, and why; see docs/families.md.
UNFIT = {
    "zamba2": "its attention blocks are shared by many layers and read the embeddings again, so "
    "no layer of it stands alone",
    "gemma3": "it reads images too; save its language model alone (model_type gemma3_text)",
}


def model_type_of(data: dict[str, Any]) -> str | None:
    """The model type of a `config.json`, or None if unknown.

    Old Llamba files have none, and are recognised by their fields; other Mamba files also have an
    `ssm_cfg`.
    """
    return data.get("model_type") or ("llamba" if {"ssm_cfg", "mlp_cfg"} <= data.keys() else None)


def config_from_dict(data: dict[str, Any]) -> PreTrainedConfig:
    """The transformers config of a `config.json`; raises `ValueError` for one without a family."""
    model_type = model_type_of(data)
    rest = {k: _decode_floats(v) for k, v in data.items() if k not in ("model_type", "auto_map")}
    if model_type is None:
        raise ValueError("no model_type is named; add it, such as llama")
    if model_type not in FAMILIES:
        raise _no_family(model_type)
    if model_type == "llamba":
        return LlambaConfig(**rest)
    config = AutoConfig.for_model(model_type, **rest)
    experts = getattr(config, "num_local_experts", None)
    if experts:
        raise ValueError(
            f"model_type {model_type!r} with {experts} experts has no adapter: transformers "
            "stores them under other names than it runs them; choose a model without experts"
        )
    return config


def _decode_floats(value: Any) -> Any:
    """Undo transformers' `{"__float__": "Infinity"}` for values that JSON has no number for."""
    if isinstance(value, dict):
        if value.keys() == {"__float__"}:
            return float(value["__float__"])
        return {key: _decode_floats(item) for key, item in value.items()}
    return [_decode_floats(item) for item in value] if isinstance(value, list) else value


def _no_family(model_type: object) -> ValueError:
    if model_type in UNFIT:
        return ValueError(
            f"model_type {model_type!r} has no adapter in optlayers/models/families.py: "
            f"{UNFIT[str(model_type)]}"
        )
    known = ", ".join(sorted(FAMILIES))
    return ValueError(
        f"model_type {model_type!r} has no adapter (there is one for {known}); "
        "add a Family to optlayers/models/families.py"
    )


def family_of(config: Any) -> Family:
    """The family of a config; raises `ValueError`, naming the file to add one to."""
    if config.model_type not in FAMILIES:
        raise _no_family(config.model_type)
    return FAMILIES[config.model_type]


def embedding_rows(config: Any) -> int:
    """Rows of the embedding table in the checkpoint; Llamba pads its vocabulary."""
    return int(getattr(config, "padded_vocab_size", config.vocab_size))


def attention_of(config: Any, wanted: str) -> str:
    """The attention implementation to use: `sdpa` cannot cap scores, `eager` can."""
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return "eager" if capped and wanted == "sdpa" else wanted


def restore_buffers(module: nn.Module) -> None:
    """Compute the buffers that no checkpoint holds, for a module built on the meta device."""
    if hasattr(module, "mup_config"):
        from transformers.models.falcon_h1.modeling_falcon_h1 import compute_mup_vector

        init.copy_(module.mup_vector, compute_mup_vector(module.mup_config))
    elif "RotaryEmbedding" in type(module).__name__ and hasattr(module, "layer_types"):
        fresh: nn.Module = type(module)(module.config)
        for name, buffer in fresh.named_buffers():
            init.copy_(module.get_buffer(name), buffer)
