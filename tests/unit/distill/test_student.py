"""Teacher and student: hidden states as in transformers, and only the mixers differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from optlayers.distill.objectives import LayerObjective
from optlayers.distill.student import CONVERTIBLE, build_student, student_config
from optlayers.distill.teacher import Teacher
from optlayers.errors import ModelError
from tests.helpers.donors import KINDS, parts_of, random_blocks, tiny_model
from tests.helpers.families import saved, tiny

# Longer than the windows of the tiny models, which are 8.
TOKENS = random_blocks(n=8, length=24).batch(0, 2)


def test_every_convertible_model_type_is_tested() -> None:
    assert {kind.partition("-")[0] for kind in KINDS} == set(CONVERTIBLE)


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_gives_the_hidden_states_of_transformers(kind: str) -> None:
    model = tiny_model(kind)
    seen: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    attended = []
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(
            lambda _, args, kwargs, out: attended.append((kwargs["hidden_states"], out[0])),
            with_kwargs=True,
        )
    with torch.no_grad():
        wanted = model.model(TOKENS).last_hidden_state
    inside, attended = attended, []
    found = Teacher(model).states(TOKENS, lambda n, x, y: seen.append((n, x, y)))
    assert torch.allclose(found, wanted, atol=1e-5)
    assert [n for n, _, _ in seen] == [0, 1, 2]
    for (_, x, y), (right_x, right_y) in zip(seen, inside, strict=True):
        assert torch.allclose(x, right_x, atol=1e-5)
        assert torch.allclose(y, right_y, atol=1e-5)
    assert found.grad_fn is None


def test_a_window_matters() -> None:
    """Else the tests of windows would show nothing."""
    narrow, wide = (tiny_model("mistral-window", sliding_window=w) for w in (8, None))
    a, b = (Teacher(model).states(TOKENS) for model in (narrow, wide))
    assert torch.allclose(a[:, :8], b[:, :8], atol=1e-5)
    assert not torch.allclose(a[:, 9:], b[:, 9:], atol=1e-3)


class Replayed(nn.Module):
    """A mixer that gives what an attention has given."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_: Any, **__: Any) -> torch.Tensor:
        return self.output


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "untied": {"tie_word_embeddings": False},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "other vocabulary": {"vocab_size": 1021},
    "gelu": {"hidden_act": "gelu"},
    "as many keys as queries": {"num_key_value_heads": 4},
}


@pytest.mark.parametrize(
    ("kind", "more"),
    [*((kind, {}) for kind in KINDS), *(("llama", more) for more in VARIANTS.values())],
    ids=[*KINDS, *VARIANTS],
)
def test_only_the_mixers_differ(tmp_path: Path, kind: str, more: dict[str, Any]) -> None:
    model = tiny_model(kind, **more)
    student: Any = build_student(model, student_config(saved(model, tmp_path), 4))
    for name, weight in student.named_parameters():
        assert weight.requires_grad == (".mixer." in name), name

    def replay(number: int, x: torch.Tensor, y: torch.Tensor) -> None:
        student.backbone.layers[number].mixer = Replayed(y)

    tokens = TOKENS % model.config.vocab_size
    Teacher(model).states(tokens, replay)
    with torch.no_grad():
        assert torch.allclose(student(tokens).logits, model(tokens).logits, atol=1e-4)
    tied = student.lm_head.weight.data_ptr() == student.backbone.embedding.weight.data_ptr()
    assert tied == bool(model.config.tie_word_embeddings)
    assert student.lm_head.weight.data_ptr() == model.lm_head.weight.data_ptr()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_training_starts_near_the_donor(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    parts = parts_of(tiny_model(kind).to(dtype), tmp_path)
    loss = LayerObjective(parts.teacher, parts.mixers).loss(random_blocks().batch(1, 8), False)
    assert 0.0 < float(loss) < 2.1
    for mixer in parts.mixers:
        assert mixer.in_proj.weight.dtype == dtype


@pytest.mark.parametrize("state", [1, 16])
def test_the_mixers_have_the_state_that_is_asked_for(tmp_path: Path, state: int) -> None:
    mixers = parts_of(tiny_model(), tmp_path, state).mixers
    assert {(m.state_size, m.heads, m.groups) for m in mixers} == {(state, 4, 4)}


UNFIT: dict[str, tuple[Any, str]] = {
    "another family": (lambda: tiny("gemma2", 1), "model_type 'gemma2' cannot be converted; "),
    "yet another family": (
        lambda: tiny("olmo2", 1),
        "choose one of llama, mistral, qwen2, qwen3, smollm3",
    ),
    "another epsilon": (lambda: tiny_model(rms_norm_eps=1e-6), "rms_norm_eps is 1e-06, and"),
    "heads": (
        lambda: tiny_model("qwen3", num_attention_heads=6, num_key_value_heads=2),
        "hidden_size 32 is not a multiple of num_attention_heads 6",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_donor_that_cannot_be_converted_is_one_line(tmp_path: Path, case: str) -> None:
    make, words = UNFIT[case]
    with pytest.raises(ModelError, match="donor ") as raised:
        student_config(saved(make(), tmp_path), 4)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
