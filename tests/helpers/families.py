"""A tiny random model of every family that a hybrid can be made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM

from optlayers.checkpoints.reader import Checkpoint
from tests.helpers.tiny import SHAPE, WIDTH, loud

MAMBA = {
    "mamba_n_heads": 4,
    "mamba_d_head": 2 * WIDTH // 4,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
}


# What each family has beside Llama's settings; head_dim where it is free.
KINDS: dict[str, dict[str, Any]] = {
    "bamba": {**MAMBA, "attn_layer_indices": [1, 4]},
    "falcon_h1": {
        **MAMBA,
        "mamba_d_ssm": 2 * WIDTH,
        "embedding_multiplier": 3.0,
        "lm_head_multiplier": 0.5,
        "ssm_multipliers": [0.5, 1.5, 0.7, 1.2, 0.9],
        "ssm_in_multiplier": 0.8,
        "ssm_out_multiplier": 0.6,
        "attention_in_multiplier": 0.9,
        "attention_out_multiplier": 0.7,
        "key_multiplier": 0.5,
    },
    "gemma2": {
        "head_dim": 12,
        "sliding_window": 8,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 12,
    },
    "gemma3_text": {
        "head_dim": 12,
        "sliding_window": 8,
        "layer_types": (["sliding_attention"] * 2 + ["full_attention"]) * 2,
        "query_pre_attn_scalar": 12,
    },
    "granitemoehybrid": {
        **MAMBA,
        "layer_types": (["linear_attention"] * 2 + ["full_attention"]) * 2,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "shared_intermediate_size": 48,
        "embedding_multiplier": 3.0,
        "logits_scaling": 2.0,
        "residual_multiplier": 0.7,
        "attention_multiplier": 0.3,
        "position_embedding_type": "nope",
    },
    "llama": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": None},
    "mistral-window": {"sliding_window": 8},
    "olmo2": {},
    "phi3": {"tie_word_embeddings": False, "sliding_window": 8},
    "qwen2": {"tie_word_embeddings": True},
    "qwen2-window": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    "qwen3": {"head_dim": 12},
    "smollm3": {"no_rope_layer_interval": 2},
}


def tiny(kind: str, seed: int, **more: Any) -> Any:
    settings = {
        **SHAPE,
        **KINDS[kind],
        **more,
    }
    config = AutoConfig.for_model(kind.partition("-")[0], **settings)
    model = loud(AutoModelForCausalLM.from_config(config), seed)
    if "attn_logit_softcapping" in settings:
        # Some versions of transformers run it on attention that leaves the caps out.
        model.set_attn_implementation("eager")
    return model


def saved(model: Any, folder: Path) -> Checkpoint:
    model.save_pretrained(folder)
    return Checkpoint(folder.name, folder)
