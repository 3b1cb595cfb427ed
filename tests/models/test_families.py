from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import LAYERS, VOCAB, WIDTH, loud, tiny_llama
from transformers import AutoConfig, AutoModelForCausalLM

from optlayers.checkpoints.reader import Checkpoint
from optlayers.errors import ModelError
from optlayers.models import HybridConfig, HybridForCausalLM
from optlayers.models.stack import LayerStack

# What each family has beside Llama's settings; head_dim where it is free.
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": None},
    "olmo2": {},
    "phi3": {"tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 12},
    "smollm3": {"no_rope_layer_interval": 2},
}
SET = (1, 2, 4)


def tiny(kind: str, seed: int, **more: Any) -> Any:
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        **KINDS[kind],
        **more,
    }
    return loud(AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)), seed)


def saved(model: Any, folder: Path) -> Checkpoint:
    model.save_pretrained(folder)
    return Checkpoint(folder.name, folder)


def by_layers(stack: LayerStack, ids: torch.Tensor, chosen: tuple[int, ...]) -> torch.Tensor:
    """Logits [B, T, V], one layer at a time."""
    h, inputs = stack.begin(ids)
    for i in range(LAYERS):
        h = stack.run(i, i in chosen, h, inputs)
    return stack.logits(h.reshape(-1, WIDTH)).reshape(*ids.shape, -1)


@pytest.mark.parametrize("kind", KINDS)
def test_layer_by_layer_equals_the_model_and_a_mixture_the_hybrid(
    kind: str, tmp_path: Path
) -> None:
    model = tiny(kind, 3)
    base = saved(model, tmp_path / "base")
    donor = saved(tiny_llama(seed=4), tmp_path / "donor")
    stack = LayerStack.load(base, donor, torch.device("cpu"), torch.float32)
    ids = torch.randint(1, VOCAB, (2, 19), generator=torch.Generator().manual_seed(0))
    hybrid = HybridForCausalLM(HybridConfig(base.config_dict, donor.config_dict, list(SET))).eval()
    for i, layer in enumerate(hybrid.model.layers):
        layer.load_state_dict(stack.sides[i in SET].layers[i].state_dict())
    hybrid.model.embed_tokens.load_state_dict(stack.embedding.state_dict())
    hybrid.model.norm.load_state_dict(stack.norm.state_dict())
    hybrid.lm_head.load_state_dict(stack.head.state_dict())
    with torch.inference_mode():
        own, mixed = by_layers(stack, ids, ()), by_layers(stack, ids, SET)
        torch.testing.assert_close(own, model(ids).logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mixed, hybrid(ids).logits, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(own, mixed)
    made = hybrid.generate(ids, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    plain = hybrid.generate(
        ids, max_new_tokens=5, min_new_tokens=5, do_sample=False, use_cache=False
    )
    assert torch.equal(made, plain)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("mistral", {"sliding_window": 8}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}),
    ],
)
def test_attention_in_windows_is_refused_in_a_line(
    kind: str, more: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny(kind, 3, **more)
    with pytest.raises(ModelError, match=r"sliding_window 8.*optlayers/models/families\.py"):
        saved(model, tmp_path)
