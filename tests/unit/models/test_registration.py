"""What importing `optlayers.models` registers with transformers, and what its classes override."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.generation import GenerationMixin

from optlayers.models import HybridConfig, HybridForCausalLM, LlambaConfig, LlambaForCausalLM

OVERRIDDEN = [
    *(
        (PreTrainedModel, name)
        for name in (
            "_init_weights",
            "_is_stateful",
            "_no_split_modules",
            "_skip_keys_device_placement",
            "_supports_attention_backend",
            "_supports_flash_attn",
            "_supports_sdpa",
            "_tied_weights_keys",
        )
    ),
    (PreTrainedConfig, "_attn_implementation"),
    (GenerationMixin, "_prepare_cache_for_generation"),
]


@pytest.mark.parametrize(
    ("config", "model"),
    [(LlambaConfig, LlambaForCausalLM), (HybridConfig, HybridForCausalLM)],
)
def test_the_auto_classes_know_the_models(
    config: type[PreTrainedConfig], model: type[PreTrainedModel], tmp_path: Path
) -> None:
    config().save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path, trust_remote_code=False)) is config
    assert AutoModelForCausalLM._model_mapping[config] is model


@pytest.mark.parametrize(("owner", "name"), OVERRIDDEN)
def test_transformers_still_has_the_private_names_that_the_models_override(
    owner: type, name: str
) -> None:
    assert hasattr(owner, name), (
        f"{owner.__name__}.{name} has moved in this version of transformers: adapt "
        "optlayers/models, and the bounds of transformers in pyproject.toml"
    )


def test_the_cache_is_still_made_by_the_method_that_the_mixin_overrides() -> None:
    made = inspect.signature(GenerationMixin._prepare_cache_for_generation).parameters
    assert list(made)[1:3] == ["generation_config", "model_kwargs"], (
        "transformers passes other arguments to _prepare_cache_for_generation: adapt "
        "optlayers/models/generation.py, and the bounds of transformers in pyproject.toml"
    )
    assert "_prepare_cache_for_generation" in inspect.getsource(GenerationMixin.generate), (
        "generate makes its cache elsewhere: adapt optlayers/models/generation.py, and the bounds "
        "of transformers in pyproject.toml"
    )
