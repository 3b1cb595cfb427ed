"""What the layers of the families have in common: their inputs, their two halves, scaled ends.

A decoder layer is two halves that each add to the hidden states: the mixer with its norms, and
the MLP with its norms. Shapes: B batch, T tokens, E hidden size. This file needs torch and
transformers alone, so that it travels with an exported checkpoint.
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
    """What a layer may need beside its hidden states; None means nothing of the kind.

    causal_mask is transformers' attention mask (None: plain causal attention);
    padding_mask [B, T] is 0 at padding; rotary holds cos and sin [B or 1, T, head width].
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
    """The causal and the padding mask of layers of one kind, as transformers makes them.

    attention_mask: [B, T of all], or a dict of masks by kind that `generate` made. layer: the
    place in the cache of one such layer, whose length counts.
    """
    if isinstance(attention_mask, dict):
        whole = "full_attention" if kind == "hybrid" else kind
        return attention_mask.get(whole), attention_mask.get("linear_attention")
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
    padding = create_recurrent_attention_mask(config, h, attention_mask, cache)
    return causal, padding


def call_attention(layer: Any, h: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
    """A whole layer of attention, as transformers' models call it."""
    out: torch.Tensor = layer(
        h,
        attention_mask=inputs.causal_mask,
        position_ids=inputs.position_ids,
        position_embeddings=inputs.rotary,
        past_key_values=inputs.past_key_values,
    )
    return out


def call_attention_or_mamba(layer: Any, h: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
    """A whole layer that holds `mamba` or `self_attn`, which look at different masks."""
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
    """A whole layer that runs `mamba` and `self_attn` side by side."""
    out: torch.Tensor = layer(
        h,
        attention_mask=inputs.causal_mask,
        mamba_attention_mask=inputs.padding_mask,
        position_ids=inputs.position_ids,
        position_embeddings=inputs.rotary,
        past_key_values=inputs.past_key_values,
    )[0]
    return out


# ------------------------------------------------------------------ halves


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


def _mix(layer: Any, x: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
    """Attention or recurrence, whichever the layer has."""
    if getattr(layer, "mamba", None) is not None:
        return _recur(layer, x, inputs)
    return _attend(layer, x, inputs)


def _add(layer: Any, h: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Add what a half gives, by the layer's multiplier where it has one."""
    scale = getattr(layer, "residual_multiplier", None)
    return h + y if scale is None else h + y * scale


@dataclass(frozen=True)
class Halves:
    """The two halves of a layer by the names of their modules; None: it has no such norm.

    mixer, mlp: (norm before, norm after). mixers: the modules that the mixer is made of.
    """

    mixer: tuple[str | None, str | None]
    mlp: tuple[str | None, str | None]
    mixers: tuple[str, ...] = ("self_attn",)
    mlp_name: str = "mlp"
    run_mixer: Call = _mix

    def names(self, half: str) -> set[str]:
        """The modules of one half, `mixer` or `mlp`."""
        if half == "mixer":
            return {*self.mixers, *filter(None, self.mixer)}
        return {self.mlp_name, *filter(None, self.mlp)}

    def mix(self, layer: Any, h: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
        """The first half of a layer on h [B, T, E]."""
        before, after = self.mixer
        x = h if before is None else getattr(layer, before)(h)
        y = self.run_mixer(layer, x, inputs)
        y = y if after is None else getattr(layer, after)(y)
        return _add(layer, h, y)

    def feed(self, layer: Any, h: torch.Tensor) -> torch.Tensor:
        """The second half of a layer on h [B, T, E]."""
        before, after = self.mlp
        x = h if before is None else getattr(layer, before)(h)
        y = getattr(layer, self.mlp_name)(x)
        y = y if after is None else getattr(layer, after)(y)
        return _add(layer, h, y)


def mix_side_by_side(layer: Any, x: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
    """Recurrence and attention of one layer, each with its multiplier, summed."""
    recurrent = _recur(layer, x, inputs) * layer.ssm_out_multiplier
    attended = _attend(layer, x * layer.attention_in_multiplier, inputs)
    out: torch.Tensor = recurrent + attended * layer.attn_out_multiplier
    return out


def mix_llamba(layer: Any, x: torch.Tensor, inputs: LayerInputs) -> torch.Tensor:
    """The discrete Mamba-2 mixer."""
    out: torch.Tensor = layer.mixer(x, inputs.padding_mask, inputs.past_key_values)
    return out


class SplitLayer(GradientCheckpointingLayer):
    """A layer whose halves come from two parents: `mixer` and `mlp` are layers less a half."""

    def __init__(self, mixer: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.mixer, self.mlp = mixer, mlp

    def forward(
        self, h: torch.Tensor, halves: tuple[Halves, Halves], **inputs: Any
    ) -> torch.Tensor:
        """Run both on h [B, T, E]; inputs: the fields of `LayerInputs`, for the mixer."""
        return halves[1].feed(self.mlp, halves[0].mix(self.mixer, h, LayerInputs(**inputs)))


def strip(layer: nn.Module, names: set[str]) -> nn.Module:
    """The layer without the modules that are not named."""
    for name, _ in list(layer.named_children()):
        if name not in names:
            delattr(layer, name)
    return layer


def placed(layer: nn.Module, index: int) -> nn.Module:
    """The layer, told its place in the hybrid: that is its place in the cache."""
    for module in layer.modules():
        if "layer_idx" in vars(module):
            vars(module)["layer_idx"] = index
    return layer


# ------------------------------------------------------------------ ends


class ScaledEmbedding(nn.Embedding):
    """An embedding whose rows are multiplied; `rounded`: by the scale in the weights' dtype."""

    def __init__(self, rows: int, width: int, scale: float, rounded: bool) -> None:
        super().__init__(rows, width)
        self.scale, self.rounded = scale, rounded

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed ids [B, T] as [B, T, E]."""
        h = super().forward(ids)
        return h * (self.weight.new_tensor(self.scale) if self.rounded else self.scale)


def softcap(config: Any, logits: torch.Tensor) -> torch.Tensor:
    """Logits between plus and minus a cap (Gemma 2)."""
    cap = config.final_logit_softcapping
    return logits if cap is None else torch.tanh(logits / cap) * cap
