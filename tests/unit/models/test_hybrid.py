from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from optlayers.models import HybridConfig, HybridForCausalLM
from optlayers.models.families import family_of
from tests.helpers.tiny import loud, random_tokens, tiny_llama, tiny_llamba

SETS = [(), (1, 2, 4), tuple(range(6))]


def build(base: Any, donor: Any, layers: tuple[int, ...]) -> Any:
    """A hybrid in memory, its tensors taken from the two parents."""
    config = HybridConfig(base.config.to_dict(), donor.config.to_dict(), list(layers))
    model = HybridForCausalLM(config)
    theirs = {"base": base.state_dict(), "donor": donor.state_dict()}
    mine = family_of(base.config)
    target = {"lm_head.weight": theirs["base"]["lm_head.weight"]}
    ends = {mine.embedding: "model.embed_tokens", mine.norm: "model.norm"}
    for source, name in ends.items():
        target[f"{name}.weight"] = theirs["base"][f"{source}.weight"]
    for i in range(6):
        parent, key = (donor, "donor") if i in layers else (base, "base")
        start = f"{family_of(parent.config).layers}.{i}."
        for name, tensor in theirs[key].items():
            if name.startswith(start):
                target[f"model.layers.{i}.{name.removeprefix(start)}"] = tensor
    model.load_state_dict(target)
    return model.eval()


@pytest.fixture(scope="module")
def parents(tiny_pair: Path) -> tuple[Any, Any]:
    load = AutoModelForCausalLM.from_pretrained
    return load(tiny_pair / "base"), load(tiny_pair / "donor")


@pytest.fixture(scope="module", params=SETS, ids=lambda s: "".join(map(str, s)) or "base")
def hybrid(request: pytest.FixtureRequest, parents: tuple[Any, Any]) -> Any:
    return build(*parents, request.param)


@pytest.mark.parametrize("length", [1, 9, 140])
def test_all_donor_layers_are_the_donor_and_none_the_base(
    parents: tuple[Any, Any], length: int
) -> None:
    base, donor = parents
    ids = random_tokens(2, length)
    with torch.inference_mode():
        none, every = build(base, donor, ()), build(base, donor, tuple(range(6)))
        assert torch.equal(none(ids).logits, base(ids).logits)
        assert torch.equal(every(ids).logits, donor(ids).logits)
        assert not torch.equal(none(ids).logits, every(ids).logits)


def test_every_layer_of_the_donor_changes_the_hybrid(parents: tuple[Any, Any]) -> None:
    ids = random_tokens(1, 8)
    with torch.inference_mode():
        seen = [build(*parents, s)(ids).logits for s in [(), *((i,) for i in range(6))]]
    for i, one in enumerate(seen):
        assert not any(torch.allclose(one, other) for other in seen[i + 1 :])


def test_token_by_token_equals_the_whole(hybrid: Any) -> None:
    ids = random_tokens(2, 12)
    with torch.inference_mode():
        whole = hybrid(ids).logits
        cache, steps = None, []
        for t in range(ids.shape[1]):
            out = hybrid(ids[:, t : t + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            steps.append(out.logits)
    assert cache is not None
    assert cache.get_seq_length() == 12
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cut", [1, 2, 131])
def test_a_prompt_then_more_at_once_equals_the_whole(hybrid: Any, cut: int) -> None:
    ids = random_tokens(2, 140)
    with torch.inference_mode():
        whole = hybrid(ids).logits
        first = hybrid(ids[:, :cut], use_cache=True)
        rest = hybrid(ids[:, cut:], past_key_values=first.past_key_values)
    found = torch.cat([first.logits, rest.logits], 1)
    torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-3)


def test_greedy_generation_is_the_argmax_of_the_full_pass(hybrid: Any) -> None:
    ids = random_tokens(2, 5)
    made = hybrid.generate(ids, max_new_tokens=8, min_new_tokens=8, do_sample=False)
    plain = hybrid.generate(
        ids, max_new_tokens=8, min_new_tokens=8, do_sample=False, use_cache=False
    )
    assert made.shape == (2, 13)
    assert torch.equal(made, plain)
    with torch.no_grad():
        logits = hybrid(made).logits
    logits[..., 0] = -torch.inf  # the end token, which min_new_tokens forbids
    assert torch.equal(logits[:, 4:-1].argmax(-1), made[:, 5:])


def left_padded(long: torch.Tensor, short: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    gap = long.shape[1] - short.shape[1]
    # The padding is a token that would matter if it were read.
    ids = torch.cat([long, torch.cat([torch.full((1, gap), 77), short], 1)])
    mask = torch.ones_like(ids)
    mask[1, :gap] = 0
    return ids, mask


def test_left_padding_changes_nothing(hybrid: Any) -> None:
    long, short = random_tokens(1, 9), random_tokens(1, 4, seed=1)
    ids, mask = left_padded(long, short)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        both = hybrid(ids, attention_mask=mask, position_ids=positions).logits
        alone = hybrid(short).logits
    torch.testing.assert_close(both[1:, 5:], alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[:1], hybrid(long).logits, rtol=1e-4, atol=1e-4)


def test_generation_of_a_padded_batch_equals_one_by_one(hybrid: Any) -> None:
    long, short = random_tokens(1, 9), random_tokens(1, 4, seed=1)
    ids, mask = left_padded(long, short)
    how = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    both = hybrid.generate(ids, attention_mask=mask, **how)
    assert torch.equal(both[0, 9:], hybrid.generate(long, **how)[0, 9:])
    assert torch.equal(both[1, 9:], hybrid.generate(short, **how)[0, 4:])


def test_sampling_with_a_seed_repeats_with_a_cache_and_without(hybrid: Any) -> None:
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(
            hybrid.generate(random_tokens(2, 5), max_new_tokens=10, do_sample=True, top_k=0)
        )
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    torch.manual_seed(1)
    plain = {"max_new_tokens": 10, "do_sample": True, "top_k": 0, "use_cache": False}
    assert torch.equal(made[0], hybrid.generate(random_tokens(2, 5), **plain))


def test_beam_search_with_a_cache_equals_beam_search_without(hybrid: Any) -> None:
    how = {"num_beams": 3, "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    made = hybrid.generate(random_tokens(2, 5), **how)
    assert made.shape == (2, 11)
    assert torch.equal(made, hybrid.generate(random_tokens(2, 5), use_cache=False, **how))


def test_saving_and_loading_again_is_lossless(hybrid: Any, tmp_path: Path) -> None:
    hybrid.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(again, HybridForCausalLM)
    assert again.config.donor_layers == hybrid.config.donor_layers
    ids = random_tokens(1, 7)
    with torch.inference_mode():
        assert torch.equal(hybrid(ids).logits, again(ids).logits)


def test_a_tied_base_stays_tied(tmp_path: Path) -> None:
    hybrid = build(tiny_llamba(tied=True), tiny_llama(), (1, 4))
    assert hybrid.lm_head.weight is hybrid.model.embed_tokens.weight
    hybrid.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(hybrid(random_tokens(1, 7)).logits, again(random_tokens(1, 7)).logits)


def test_two_llamas_make_a_hybrid() -> None:
    base, donor = tiny_llama(seed=5), tiny_llama(seed=6)
    donor.lm_head, donor.model.embed_tokens = base.lm_head, base.model.embed_tokens
    donor.model.norm = base.model.norm
    ids = random_tokens(2, 9)
    for layers, parent in (((), base), (tuple(range(6)), donor)):
        with torch.inference_mode():
            assert torch.equal(build(base, donor, layers)(ids).logits, parent(ids).logits)


def grads(model: Any, ids: torch.Tensor, **how: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(ids, labels=ids, **how).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("kind", ["llamba", "hybrid"])
def test_gradients_reach_every_parameter_also_with_checkpointing(
    parents: tuple[Any, Any], kind: str
) -> None:
    model = tiny_llamba() if kind == "llamba" else build(*parents, (1, 4))
    model = loud(model, 3, std=0.1).train()
    ids = random_tokens(2, 10)
    plain = grads(model, ids)
    assert set(plain) == {name for name, _ in model.named_parameters()}
    assert all(bool(g.isfinite().all()) and bool(g.abs().sum() > 0) for g in plain.values())
    assert model.supports_gradient_checkpointing
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    layers = (model.model if kind == "hybrid" else model.backbone).layers
    model.gradient_checkpointing_enable()
    hooks = [layer.mlp.register_forward_pre_hook(count) for layer in layers]
    again = grads(model, ids)
    for hook in hooks:
        hook.remove()
    assert calls == 2 * len(layers), "each layer runs once forward and once again backward"
    cached = grads(model, ids, use_cache=True)
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(cached[name], gradient, rtol=1e-4, atol=1e-6)


def test_the_gradient_is_the_slope_of_the_loss(parents: tuple[Any, Any]) -> None:
    model = loud(build(*parents, (1, 4)), 3, std=0.1).double()
    ids = random_tokens(1, 6)
    slope = grads(model, ids)
    name = "model.layers.0.mixer.in_proj.weight"
    weight = dict(model.named_parameters())[name]
    direction = torch.randn(
        weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    losses = []
    with torch.no_grad():
        for step in (1e-3, -2e-3):
            weight.add_(direction, alpha=step)
            losses.append(float(model(ids, labels=ids).loss))
    expected = (losses[0] - losses[1]) / 2e-3
    assert float((slope[name] * direction).sum()) == pytest.approx(expected, rel=2e-2, abs=1e-4)


def test_embeddings_can_be_given_and_replaced(parents: tuple[Any, Any]) -> None:
    model = build(*parents, (1, 4))
    ids = random_tokens(1, 6)
    embedding = model.get_input_embeddings()
    with torch.inference_mode():
        by_ids = model(ids).logits
        by_vectors = model(inputs_embeds=embedding(ids)).logits
    assert torch.equal(by_ids, by_vectors)
    with torch.inference_mode():
        last = model(ids, logits_to_keep=1).logits
    torch.testing.assert_close(last, by_ids[:, -1:], rtol=1e-5, atol=1e-5)


def test_the_config_takes_the_shorter_length_and_the_padded_vocabulary(
    parents: tuple[Any, Any],
) -> None:
    base, donor = (parent.config.to_dict() for parent in parents)
    config = HybridConfig({**base, "vocab_size": 1021}, donor, [4, 1])
    assert (config.vocab_size, config.max_position_embeddings) == (1024, 512)
    assert config.donor_layers == [1, 4]
    assert config.layer_types[:2] == ["linear_attention", "full_attention"]


def test_an_unknown_family_names_the_file_to_change() -> None:
    config = HybridConfig()
    with pytest.raises(ValueError, match=r"no adapter.*optlayers/models/families\.py"):
        family_of(config)
