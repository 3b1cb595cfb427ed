"""The hybrid: a causal language model whose layers come from a base and a donor.

Embedding, final norm and head are the base's. The model is an ordinary transformers model, so
an exported one loads with `AutoModelForCausalLM.from_pretrained`. This file needs torch,
transformers and its neighbours `families.py`, `generation.py`, `llamba.py`, `ssd.py` alone, and
travels with them in an exported checkpoint. Shapes: B batch, T tokens, E hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .families import LayerInputs, Rotary, config_from_dict, embedding_rows, family_of
from .generation import (
    RecurrentCache,
    RecurrentGenerationMixin,
    causal_lm_output,
    last_output,
    padding_mask,
)


class HybridConfig(PreTrainedConfig):
    """Both parents' configs and the indices of the layers that the donor gives."""

    model_type = "optlayers_hybrid"

    def __init__(
        self,
        base_config: dict[str, Any] | None = None,
        donor_config: dict[str, Any] | None = None,
        donor_layers: list[int] | None = None,
        use_cache: bool = True,
        **kwargs: Any,
    ) -> None:
        self.base_config = base_config or {"model_type": "llamba"}
        self.donor_config = donor_config or {"model_type": "llama"}
        self.donor_layers = sorted(donor_layers or [])
        self.use_cache = use_cache
        base, donor = self.parents()
        self.vocab_size = embedding_rows(base)
        self.hidden_size = base.hidden_size
        self.num_hidden_layers = base.num_hidden_layers
        limits = [getattr(c, "max_position_embeddings", None) for c in (base, donor)]
        self.max_position_embeddings = min((n for n in limits if n), default=None)
        kwargs.setdefault("tie_word_embeddings", bool(base.tie_word_embeddings))
        super().__init__(**kwargs)

    def parents(self) -> tuple[PreTrainedConfig, PreTrainedConfig]:
        """The configs of base and donor."""
        return config_from_dict(self.base_config), config_from_dict(self.donor_config)

    @property
    def layer_types(self) -> list[str]:
        """The kind of each layer in the words of transformers' caches."""
        base, donor = (family_of(config).kind for config in self.parents())
        chosen = set(self.donor_layers)
        return [donor if i in chosen else base for i in range(self.num_hidden_layers)]


class HybridPreTrainedModel(PreTrainedModel):
    """What transformers needs to know of the hybrid classes."""

    config_class = HybridConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = [  # noqa: RUF012
        "LlamaDecoderLayer",
        "LlambaBlock",
        "MistralDecoderLayer",
        "Olmo2DecoderLayer",
        "Phi3DecoderLayer",
        "Qwen2DecoderLayer",
        "Qwen3DecoderLayer",
        "SmolLM3DecoderLayer",
    ]
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    # A recurrent state cannot be taken back, which assisted generation would have to.
    _is_stateful = True


class HybridModel(HybridPreTrainedModel):
    """Embedding, layers of both parents, final norm."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config)
        parents = config.parents()
        for parent in parents:
            # Attention modules read the implementation from the config that they were made with.
            parent._attn_implementation = config._attn_implementation
        self.families = [family_of(parent) for parent in parents]
        chosen = set(config.donor_layers)
        self.origin = [int(i in chosen) for i in range(config.num_hidden_layers)]
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            [
                self.families[side].build_layer(parents[side], i)
                for i, side in enumerate(self.origin)
            ]
        )
        self.norm = self.families[0].build_norm(parents[0])
        self.rotary = nn.ModuleDict(
            {
                str(side): family.build_rotary(parents[side])
                for side, family in enumerate(self.families)
                if family.build_rotary and side in self.origin
            }
        )
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: Any = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states [B, T, E] of input_ids [B, T].

        output_hidden_states: return the input of every layer too, and what the last norm gives.
        """
        h = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = RecurrentCache(self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(h.shape[1], device=h.device) + seen)[None]
        causal = attention_mask
        if isinstance(attention_mask, dict):
            causal = attention_mask.get("full_attention")
        elif "full_attention" in self.config.layer_types:
            causal = create_causal_mask(
                config=self.config,
                inputs_embeds=h,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                position_ids=position_ids,
            )
        rotary: dict[str, Rotary] = {
            side: module(h, position_ids=position_ids) for side, module in self.rotary.items()
        }
        inputs = [
            LayerInputs(
                rotary.get(str(side)),
                causal,
                padding_mask(attention_mask, h),
                position_ids,
                past_key_values,
            )
            for side in (0, 1)
        ]
        states: list[torch.Tensor] | None = [] if output_hidden_states else None
        for layer, side in zip(self.layers, self.origin, strict=True):
            if states is not None:
                states.append(h)
            h = self.families[side].call(layer, h, inputs[side])
        return last_output(self.norm(h), past_key_values, states)


class HybridForCausalLM(HybridPreTrainedModel, RecurrentGenerationMixin):
    """The hybrid with its head."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config)
        self.model = HybridModel(config)
        bias = bool(config.base_config.get("lm_head_bias", False))
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=bias)
        self.post_init()

    def forward(
        self,
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
        """Logits [B, T, vocabulary]; with labels [B, T], the loss of the next token too."""
        out = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            output_hidden_states,
        )
        return causal_lm_output(self, out, labels, logits_to_keep, **kwargs)
