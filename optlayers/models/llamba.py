"""Llamba: the Llama block with a discrete Mamba-2 mixer instead of attention.

Parameter names and config are those of the published checkpoints (`cartesia-ai/Llamba-8B`,
`goombalab/Llamba-8B-untied-unaligned`), which load unchanged. Shapes: B batch, T tokens, H value
heads of width P, G query-key heads, N state size. Imports torch, transformers, `generation.py` and
`ssd.py` only, since this file is copied into exported checkpoints.

Source: Bick et al., "Llamba: Scaling Distilled Recurrent Models for Efficient Language
Processing" (2025).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.utils import can_return_tuple

from .generation import (
    RecurrentCache,
    RecurrentGenerationMixin,
    causal_lm_forward,
    decoder_output,
    padding_mask,
)
from .ssd import ssd

BLOCK_EPS = 1e-5  # fixed in the published code; norm_epsilon is for the final norm only
CONV_WIDTH = 4


class LlambaConfig(PreTrainedConfig):
    """The published `config.json` of Llamba; `model_type` may be missing in old files."""

    model_type = "llamba"
    attribute_map = {  # noqa: RUF012
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layer",
        "rms_norm_eps": "norm_epsilon",
    }

    def __init__(
        self,
        vocab_size: int = 128256,
        d_model: int = 4096,
        n_layer: int = 32,
        tie_embeddings: bool = False,
        pad_vocab_size_multiple: int = 8,
        lm_head_bias: bool = False,
        norm_epsilon: float = 1e-5,
        mlp_cfg: dict[str, Any] | None = None,
        ssm_cfg: dict[str, Any] | None = None,
        use_cache: bool = True,
        **kwargs: Any,
    ) -> None:
        for name, value in (("vocab_size", vocab_size), ("d_model", d_model), ("n_layer", n_layer)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; it is a whole number of 1 or more")
        if not isinstance(norm_epsilon, int | float):
            raise ValueError(f"norm_epsilon is {norm_epsilon!r}; it is a number")
        self.vocab_size = vocab_size
        self.d_model = d_model
        self.n_layer = n_layer
        self.pad_vocab_size_multiple = pad_vocab_size_multiple
        self.lm_head_bias = lm_head_bias
        self.norm_epsilon = norm_epsilon
        self.mlp_cfg = {
            "intermediate_size": 14336,
            "bias": False,
            "act_fn": "silu",
            **(mlp_cfg or {}),
        }
        self.ssm_cfg = {
            "d_state": 64,
            "n_v_heads": 32,
            "n_qk_heads": 32,
            "expand": 1,
            "chunk_size": 128,
            "activation": "identity",
            "bias": False,
            **(ssm_cfg or {}),
        }
        self.use_cache = use_cache
        self.tie_embeddings = tie_embeddings
        kwargs["tie_word_embeddings"] = tie_embeddings
        super().__init__(**kwargs)

    @property
    def layer_types(self) -> list[str]:
        """The kind of each layer, as transformers' caches name it."""
        return ["linear_attention"] * int(self.n_layer)

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding: the vocabulary rounded up to the padding multiple."""
        multiple = max(1, int(self.pad_vocab_size_multiple))
        return -(-int(self.vocab_size) // multiple) * multiple


class LlambaMLP(nn.Module):
    """SwiGLU: down(act(gate(x)) * up(x)). [B, T, d_model] to the same."""

    def __init__(self, d_model: int, intermediate_size: int, bias: bool, act_fn: str) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(d_model, intermediate_size, bias=bias)
        self.up_proj = nn.Linear(d_model, intermediate_size, bias=bias)
        self.down_proj = nn.Linear(intermediate_size, d_model, bias=bias)
        self.act_fn = ACT2FN[act_fn]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the MLP to x [B, T, d_model]."""
        out: torch.Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return out


class ShortConv(nn.Conv1d):
    """Causal depthwise convolution over 4 tokens, as shifted products."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, CONV_WIDTH, groups=channels)

    def forward(self, xbc: torch.Tensor) -> torch.Tensor:
        """xbc [B, T + 3, channels], of which the first 3 are the past; returns [B, T, channels]."""
        assert self.bias is not None  # made with one; for the type checker
        length = xbc.shape[1] - (CONV_WIDTH - 1)
        out = torch.addcmul(self.bias, xbc[:, :length], self.weight[:, 0, 0])
        for k in range(1, CONV_WIDTH):
            out = torch.addcmul(out, xbc[:, k : k + length], self.weight[:, 0, k])
        return out


class DiscreteMamba2(nn.Module):
    """The mixer: input projection, short convolution, SSD, gate, output projection."""

    def __init__(self, config: LlambaConfig, layer_idx: int) -> None:
        super().__init__()
        ssm = config.ssm_cfg
        self.layer_idx = layer_idx
        self.inner = int(ssm["expand"] * config.d_model)
        self.heads, self.groups = int(ssm["n_v_heads"]), int(ssm["n_qk_heads"])
        self.state_size = int(ssm["d_state"])
        if self.heads % self.groups or self.inner % self.heads:
            raise ValueError(
                f"ssm_cfg: n_v_heads {self.heads} must be a multiple of n_qk_heads {self.groups} "
                f"and divide the {self.inner} inner channels"
            )
        self.width = self.inner // self.heads
        self.conv_channels = self.inner + 2 * self.groups * self.state_size
        in_size = self.conv_channels + self.inner + self.heads
        self.in_proj = nn.Linear(config.d_model, in_size, bias=ssm["bias"])
        self.z_bias = nn.Parameter(torch.zeros(self.inner))
        self.conv1d = ShortConv(self.conv_channels)
        activation = ssm["activation"]
        self.activation = nn.Identity() if activation == "identity" else ACT2FN[activation]
        self.D = nn.Parameter(torch.ones(self.heads))
        self.out_proj = nn.Linear(self.inner, config.d_model, bias=ssm["bias"])

    def forward(
        self,
        u: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
    ) -> torch.Tensor:
        """Mix u [B, T, d_model]; padding_mask [B, T] is 0 where a token is padding.

        With a cache, the last 3 inputs of the convolution [B, channels, 3] and the state
        [B, H, P, N] of this layer are read and updated.
        """
        batch, length, _ = u.shape
        xbc, z, A_log = self.in_proj(u).split([self.conv_channels, self.inner, self.heads], dim=-1)
        if padding_mask is not None:
            # Left padding must not enter the state.
            padding_mask = padding_mask[:, -length:, None].to(u.dtype)
            xbc = xbc * padding_mask
        xbc, state = self._with_past(xbc, past_key_values)
        xbc = self.activation(self.conv1d(xbc))
        x, B, C = xbc.split([self.inner, *[self.groups * self.state_size] * 2], dim=-1)
        if padding_mask is not None:
            x = x * padding_mask
        y, state = ssd(
            x.reshape(batch, length, self.heads, self.width),
            A_log,
            B.reshape(batch, length, self.groups, self.state_size),
            C.reshape(batch, length, self.groups, self.state_size),
            self.D,
            initial_state=state,
            return_state=past_key_values is not None,
        )
        if past_key_values is not None:
            past_key_values.update_recurrent_state(state, self.layer_idx)
        y = y.reshape(batch, length, self.inner) * F.silu(z + self.z_bias)
        out: torch.Tensor = self.out_proj(y)
        return out

    def _with_past(
        self, xbc: torch.Tensor, cache: Cache | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """xbc with the last 3 inputs of the convolution before it, and the past state."""
        if cache is None:
            return F.pad(xbc, (0, 0, CONV_WIDTH - 1, 0)), None
        seen = cache.has_previous_state(self.layer_idx)
        state = cache.layers[self.layer_idx].recurrent_states[0] if seen else None
        tail = xbc.transpose(1, 2)
        if not seen:
            # A prompt shorter than the convolution must still fill the cache.
            tail = F.pad(tail, (CONV_WIDTH - 1, 0))
        full = cache.update_conv_state(tail, self.layer_idx, conv_kernel_size=CONV_WIDTH - 1)
        return full.transpose(1, 2), state


class LlambaBlock(GradientCheckpointingLayer):
    """h += mixer(norm(h)); h += mlp(norm(h)). Called as transformers calls a decoder layer."""

    def __init__(self, config: LlambaConfig, layer_idx: int) -> None:
        super().__init__()
        mlp = config.mlp_cfg
        self.input_layernorm = LlamaRMSNorm(config.d_model, eps=BLOCK_EPS)
        self.mixer = DiscreteMamba2(config, layer_idx)
        self.post_attention_layernorm = LlamaRMSNorm(config.d_model, eps=BLOCK_EPS)
        self.mlp = LlambaMLP(config.d_model, mlp["intermediate_size"], mlp["bias"], mlp["act_fn"])

    def forward(
        self,
        hidden_states: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
    ) -> torch.Tensor:
        """Transform hidden_states [B, T, d_model]; see `DiscreteMamba2.forward`."""
        h = hidden_states + self.mixer(
            self.input_layernorm(hidden_states), padding_mask, past_key_values
        )
        out: torch.Tensor = h + self.mlp(self.post_attention_layernorm(h))
        return out


class LlambaPreTrainedModel(PreTrainedModel):
    """Settings of the Llamba classes for transformers."""

    config_class = LlambaConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LlambaBlock"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    # A recurrent state cannot be rolled back, as assisted generation needs.
    _is_stateful = True


class LlambaModel(LlambaPreTrainedModel):
    """Embedding, blocks and final norm."""

    def __init__(self, config: LlambaConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        self.layers = nn.ModuleList([LlambaBlock(config, i) for i in range(config.n_layer)])
        self.final_layernorm = LlamaRMSNorm(config.d_model, eps=config.norm_epsilon)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states [B, T, d_model] of input_ids [B, T].

        output_hidden_states: also return the input of every layer and the output of the last norm.
        """
        h = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = RecurrentCache(self.config)
        mask = padding_mask(attention_mask, h)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        states: list[torch.Tensor] | None = [] if output_hidden_states else None
        for layer in self.layers:
            if states is not None:
                states.append(h)
            # By keyword, so that activation checkpointing can drop the cache.
            h = layer(h, mask, past_key_values=past_key_values)
        return decoder_output(self.final_layernorm(h), past_key_values, states)


class LlambaForCausalLM(LlambaPreTrainedModel, RecurrentGenerationMixin):
    """Llamba with its head; loads the published checkpoints."""

    forward = causal_lm_forward

    _tied_weights_keys = {"lm_head.weight": "backbone.embedding.weight"}  # noqa: RUF012

    def __init__(self, config: LlambaConfig) -> None:
        super().__init__(config)
        self.backbone = LlambaModel(config)
        self.lm_head = nn.Linear(config.d_model, config.padded_vocab_size, bias=config.lm_head_bias)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embedding table."""
        return self.backbone.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the embedding table."""
        self.backbone.embedding = value
