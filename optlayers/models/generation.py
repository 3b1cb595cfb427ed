"""What Llamba and the hybrid share around their layers: the cache, the head, generation.

Shapes: B batch, T tokens, E hidden size, V vocabulary. Imports torch and transformers only, since
this file is copied into exported checkpoints.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationMixin, PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache, DynamicSlidingWindowLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple


class RecurrentCache(DynamicCache):
    """A `DynamicCache` that also counts tokens when no layer is an attention layer.

    transformers reads the length from the keys of an attention layer. A model without one calls
    `advance` with the number of tokens that it has processed.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config=config)
        # The parents' attention windows may differ in size.
        for i, window in enumerate(getattr(config, "sliding_windows", ())):
            if window is not None and window != config.sliding_window:
                self.layers[i] = DynamicSlidingWindowLayer(sliding_window=window)
        self._has_attention = any(kind != "linear_attention" for kind in config.layer_types)
        self._seen = 0

    def advance(self, tokens: int) -> None:
        """Count tokens that the model has processed."""
        self._seen += tokens

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens in the cache."""
        return int(super().get_seq_length(layer_idx)) if self._has_attention else self._seen


def padding_mask(attention_mask: Any, h: torch.Tensor) -> torch.Tensor | None:
    """The mask [B, T of all], or None while decoding or without a mask.

    `generate` may pass a dict of masks, one for each kind of layer.
    """
    if isinstance(attention_mask, dict):
        attention_mask = attention_mask.get("linear_attention")
    if attention_mask is None or attention_mask.dim() != 2 or h.shape[1] == 1:
        return None
    mask: torch.Tensor = attention_mask
    return mask


def decoder_output(
    h: torch.Tensor, cache: Cache | None, states: list[torch.Tensor] | None
) -> BaseModelOutputWithPast:
    """The output of a model without a head; counts the tokens of h [B, T, E] in the cache."""
    if isinstance(cache, RecurrentCache):
        cache.advance(h.shape[1])
    return BaseModelOutputWithPast(
        last_hidden_state=h,
        past_key_values=cache,
        hidden_states=None if states is None else (*states, h),
    )


class RecurrentGenerationMixin(GenerationMixin):
    """`generate` with a `RecurrentCache`, and the forward pass of a model with `lm_head`."""

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

    def finish(self, logits: torch.Tensor) -> torch.Tensor:
        """The last step on the logits, after the head."""
        return logits


@can_return_tuple
def causal_lm_forward(
    self: Any,
    input_ids: torch.Tensor | None = None,
    attention_mask: Any = None,
    position_ids: torch.Tensor | None = None,
    past_key_values: Cache | None = None,
    inputs_embeds: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
    use_cache: bool | None = None,
    logits_to_keep: int | torch.Tensor = 0,
    output_hidden_states: bool | None = None,
    **kwargs: Any,
) -> CausalLMOutputWithPast:
    """Logits [B, T, V]; with labels [B, T], also the loss of predicting the next token."""
    out = self.base_model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=position_ids,
        past_key_values=past_key_values,
        inputs_embeds=inputs_embeds,
        use_cache=use_cache,
        output_hidden_states=output_hidden_states,
        return_dict=True,
    )
    keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
    logits = self.finish(self.lm_head(out.last_hidden_state[:, keep]))
    loss = None
    if labels is not None:
        loss = self.loss_function(
            logits=logits, labels=labels, vocab_size=logits.shape[-1], **kwargs
        )
    return CausalLMOutputWithPast(
        loss=loss,
        logits=logits,
        past_key_values=out.past_key_values,
        hidden_states=out.hidden_states,
    )
