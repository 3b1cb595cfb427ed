"""What Llamba and the hybrid have in common around their layers: cache, masks, outputs.

Shapes: B batch, T tokens, E hidden size. This file needs torch and transformers alone, so that it
travels with an exported checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationMixin, PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache, DynamicSlidingWindowLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast


class RecurrentCache(DynamicCache):
    """transformers' dynamic cache, which also knows the length of an all-recurrent past.

    Recurrent layers keep no keys to count, so a model without any attention layer notes the
    number of tokens that it has seen with `advance`.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config=config)
        # Both parents may look through windows, each through its own.
        for i, window in enumerate(getattr(config, "sliding_windows", ())):
            if window is not None and window != config.sliding_window:
                self.layers[i] = DynamicSlidingWindowLayer(sliding_window=window)
        self._countable = any(kind != "linear_attention" for kind in config.layer_types)
        self._seen = 0

    def advance(self, tokens: int) -> None:
        """Note that the model has taken in that many more tokens."""
        self._seen += tokens

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens in the cache."""
        if self._countable:
            return int(super().get_seq_length(layer_idx))
        return self._seen


class RecurrentGenerationMixin(GenerationMixin):
    """`generate` with a `RecurrentCache` where transformers would make a plain dynamic one."""

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> bool:
        given = model_kwargs.get("past_key_values")
        prepared = super()._prepare_cache_for_generation(
            generation_config, model_kwargs, *args, **kwargs
        )
        if given is None and model_kwargs.get("past_key_values") is not None:
            model_kwargs["past_key_values"] = RecurrentCache(self.config)
        return bool(prepared)


def padding_mask(attention_mask: Any, h: torch.Tensor) -> torch.Tensor | None:
    """The 2-D mask [B, T_total] where it says anything: None in decoding or with no padding.

    `generate` may hand over one mask for each kind of layer, as a dict.
    """
    if isinstance(attention_mask, dict):
        attention_mask = attention_mask.get("linear_attention")
    if attention_mask is None or attention_mask.dim() != 2 or h.shape[1] == 1:
        return None
    mask: torch.Tensor = attention_mask
    return mask


def last_output(
    h: torch.Tensor, past_key_values: Cache | None, states: list[torch.Tensor] | None
) -> BaseModelOutputWithPast:
    """What a model without a head returns; notes in the cache that h [B, T, E] went through."""
    if isinstance(past_key_values, RecurrentCache):
        past_key_values.advance(h.shape[1])
    return BaseModelOutputWithPast(
        last_hidden_state=h,
        past_key_values=past_key_values,
        hidden_states=None if states is None else (*states, h),
    )


def causal_lm_output(
    model: Any,
    out: BaseModelOutputWithPast,
    labels: torch.Tensor | None,
    logits_to_keep: int | torch.Tensor,
    finish: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits,
    **kwargs: Any,
) -> CausalLMOutputWithPast:
    """Logits of the kept positions, and the loss where there are labels.

    finish: what the model does to the logits after its head.
    """
    h = out.last_hidden_state
    keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
    logits = finish(model.lm_head(h[:, keep]))
    loss = None
    if labels is not None:
        loss = model.loss_function(
            logits=logits, labels=labels, vocab_size=logits.shape[-1], **kwargs
        )
    return CausalLMOutputWithPast(
        loss=loss,
        logits=logits,
        past_key_values=out.past_key_values,
        hidden_states=out.hidden_states,
    )
