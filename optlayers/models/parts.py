"""What the layers of all families share: their inputs, their two halves, embedding and logits.

A decoder layer has two halves that each add to the hidden states: the mixer with its norms, and
the MLP with its norms. Shapes: B batch, T tokens, E hidden size. Imports torch and transformers
only, since this file is copied into exported checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.masking_utils import (
    create_causal_mask,
    create_recurrent_attention_mask,
    create_sliding_window_causal_mask,
)
from transformers.modeling_layers import GradientCheckpointingLayer

Rotary = tuple[torch.Tensor, torch.Tensor]


@dataclass
class LayerInputs:
    """The inputs of a layer other than its hidden states.

    rotary: cos and sin [B or 1, T, head width]. causal_mask: transformers' attention mask (None:
    plain causal attention). padding_mask [B, T]: 0 at padding (None: no padding).
    """

    rotary: Rotary | None = None
    causal_mask: torch.Tensor | None = None
    padding_mask: torch.Tensor | None = None
    position_ids: torch.Tensor | None = None
    past_key_values: Cache | None = None


Call = Callable[[Any, torch.Tensor, LayerInputs], torch.Tensor]


def masks(
    config: Any,
    kind: str,
    h: torch.Tensor,
    attention_mask: Any = None,
    cache: Cache | None = None,
    layer: int | None = None,
    position_ids: torch.Tensor | None = None,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The causal mask and the padding mask for layers of one kind, made by transformers.

    attention_mask: [B, T of all], or the dict of masks by kind that `generate` makes. layer: the
    index in the cache of one such layer, whose length is used.
    """
    if isinstance(attention_mask, dict):
        name = "full_attention" if kind == "hybrid" else kind
        return attention_mask.get(name), attention_mask.get("linear_attention")
    causal = None
    if kind != "linear_attention":
        make = create_sliding_window_causal_mask if "sliding" in kind else create_causal_mask
        causal = make(
            config=config,
            inputs_embeds=h,
            attention_mask=attention_mask,
            past_key_values=cache,
            position_ids=position_ids,
            layer_idx=layer,
        )
    return causal, create_recurrent_attention_mask(config, h, attention_mask, cache)


def call_attention(layer: Any, h: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
    """Run a layer with attention."""
    out: torch.Tensor = layer(
        h,
        attention_mask=inputs.causal_mask,
        position_ids=inputs.position_ids,
        position_embeddings=inputs.rotary,
        past_key_values=inputs.past_key_values,
    )
    return out


def call_attention_or_mamba(layer: Any, h: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
    """Run a layer with either `mamba` or `self_attn`, which take different masks."""
    recurrent = getattr(layer, "mamba", None) is not None
    out = layer(
        h,
        attention_mask=inputs.padding_mask if recurrent else inputs.causal_mask,
        position_ids=inputs.position_ids,
        position_embeddings=inputs.rotary,
        past_key_values=inputs.past_key_values,
    )
    result: torch.Tensor = out[0] if isinstance(out, tuple) else out
    return result


def call_attention_and_mamba(layer: Any, h: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
    """Run a layer with `mamba` and `self_attn` side by side."""
    out: torch.Tensor = layer(
        h,
        attention_mask=inputs.causal_mask,
        mamba_attention_mask=inputs.padding_mask,
        position_ids=inputs.position_ids,
        position_embeddings=inputs.rotary,
        past_key_values=inputs.past_key_values,
    )[0]
    return out


def _attend(layer: Any, x: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
    out: torch.Tensor = layer.self_attn(
        hidden_states=x,
        attention_mask=inputs.causal_mask,
        position_ids=inputs.position_ids,
        position_embeddings=inputs.rotary,
        past_key_values=inputs.past_key_values,
    )[0]
    return out


def _recur(layer: Any, x: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
    out: torch.Tensor = layer.mamba(
        hidden_states=x, cache_params=inputs.past_key_values, attention_mask=inputs.padding_mask
    )
    return out


def mix_attention_or_mamba(layer: Any, x: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
    """Run the mixer of a layer with either `mamba` or `self_attn`."""
    run = _attend if getattr(layer, "mamba", None) is None else _recur
    return run(layer, x, inputs)


def mix_attention_and_mamba(layer: Any, x: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
    """Run `mamba` and `self_attn` of a layer, each with its multiplier, and sum."""
    recurrent = _recur(layer, x, inputs) * layer.ssm_out_multiplier
    attended = _attend(layer, x * layer.attention_in_multiplier, inputs)
    out: torch.Tensor = recurrent + attended * layer.attn_out_multiplier
    return out


def mix_llamba(layer: Any, x: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
    """Run the discrete Mamba-2 mixer of a layer."""
    out: torch.Tensor = layer.mixer(x, inputs.padding_mask, inputs.past_key_values)
    return out


Norms = tuple[str | None, str | None]


@dataclass(frozen=True)
class LayerHalves:
    """The two halves of a layer by the names of their modules.

    mixer_norms, mlp_norms: the norm before and the norm after (None: no such norm). mixers: the
    modules that make up the mixer. mix: runs them on the normed hidden states.
    """

    mixer_norms: Norms
    mlp_norms: Norms
    mixers: tuple[str, ...] = ("self_attn",)
    mlp: str = "mlp"
    mix: Call = mix_attention_or_mamba

    def modules(self, part: str) -> set[str] | None:
        """The modules of a half, `mixer` or `mlp`; None (all) for `layer`."""
        if part == "layer":
            return None
        mixer = part == "mixer"
        names, norms = (self.mixers, self.mixer_norms) if mixer else ((self.mlp,), self.mlp_norms)
        return {*names, *filter(None, norms)}

    def run_mixer(self, layer: Any, h: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
        """The mixer half of a layer on h [B, T, E]."""
        return _add(layer, h, self.mixer_norms, lambda x: self.mix(layer, x, inputs))

    def run_mlp(self, layer: Any, h: torch.Tensor) -> torch.Tensor:
        """The MLP half of a layer on h [B, T, E]."""
        return _add(layer, h, self.mlp_norms, getattr(layer, self.mlp))


def _add(
    layer: Any, h: torch.Tensor, norms: Norms, run: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """h plus what `run` makes of it between the norms, times the layer's multiplier if any."""
    before, after = norms
    y = run(h if before is None else getattr(layer, before)(h))
    y = y if after is None else getattr(layer, after)(y)
    scale = getattr(layer, "residual_multiplier", None)
    return h + y if scale is None else h + y * scale


class SplitLayer(GradientCheckpointingLayer):
    """A layer whose halves come from two parents: `mixer` and `mlp` are layers without a half."""

    def __init__(self, mixer: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.mixer, self.mlp = mixer, mlp

    def forward(
        self, h: torch.Tensor, halves: tuple[LayerHalves, LayerHalves], **inputs: Any
    ) -> torch.Tensor:
        """Run both halves on h [B, T, E]; inputs: the fields of `LayerInputs`, for the mixer."""
        return halves[1].run_mlp(
            self.mlp, halves[0].run_mixer(self.mixer, h, LayerInputs(**inputs))
        )


def keep_modules(layer: nn.Module, names: set[str] | None) -> nn.Module:
    """Delete all child modules of a layer but the named ones (None: keep all); returns it."""
    for name, _ in list(layer.named_children()):
        if names is not None and name not in names:
            delattr(layer, name)
    return layer


def set_layer_idx(layer: nn.Module, index: int) -> nn.Module:
    """Set the index of a layer in the hybrid, which is its index in the cache; returns it."""
    for module in layer.modules():
        if "layer_idx" in vars(module):
            vars(module)["layer_idx"] = index
    return layer


class ScaledEmbedding(nn.Embedding):
    """An embedding times a scale; `rounded`: the scale is rounded to the dtype of the weights."""

    def __init__(self, rows: int, width: int, scale: float, rounded: bool) -> None:
        super().__init__(rows, width)
        self.scale, self.rounded = scale, rounded

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed ids [B, T] as [B, T, E]."""
        h = super().forward(ids)
        return h * (self.weight.new_tensor(self.scale) if self.rounded else self.scale)


def softcap(config: Any, logits: torch.Tensor) -> torch.Tensor:
    """Limit logits to plus or minus a cap (Gemma 2)."""
    cap = config.final_logit_softcapping
    return logits if cap is None else torch.tanh(logits / cap) * cap
