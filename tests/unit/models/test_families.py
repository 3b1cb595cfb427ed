from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import AutoModelForCausalLM

from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import Checkpoint
from optlayers.checkpoints.writer import CheckpointWriter
from optlayers.config.graft import Graft, Swap
from optlayers.errors import ModelError
from optlayers.inference.stack import LayerStack
from optlayers.layerset import LayerSet
from tests.helpers.families import KINDS, saved, tiny
from tests.helpers.tiny import LAYERS, WIDTH, random_tokens, tiny_llama, tiny_llamba

CPU = torch.device("cpu")
SET = (1, 2, 4)


def tokens(length: int = 19, seed: int = 0) -> torch.Tensor:
    return random_tokens(2, length, seed)


def by_layers(stack: LayerStack, ids: torch.Tensor, chosen: tuple[int, ...]) -> torch.Tensor:
    """Logits [B, T, V], one layer at a time."""
    h, inputs = stack.begin(ids)
    for i in range(LAYERS):
        h = stack.run(i, i in chosen, h, inputs)
    return stack.logits(h.reshape(-1, WIDTH)).reshape(*ids.shape, -1)


def check_export(
    base: Checkpoint, donor: Checkpoint, tokenizer: Path, out: Path, graft: Graft
) -> torch.Tensor:
    """The engine's logits of `SET`, which the exported hybrid gives too, with and without cache."""
    parents = Parents(base, (donor,))
    stack = LayerStack.load(parents, CPU, torch.float32, graft=graft)
    CheckpointWriter(parents, tokenizer, graft).write(LayerSet(SET), out)
    hybrid = AutoModelForCausalLM.from_pretrained(out)
    ids = tokens()
    how = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    with torch.inference_mode():
        mixed = by_layers(stack, ids, SET)
        assert torch.equal(mixed, hybrid(ids).logits)
        mask = torch.ones_like(ids)
        mask[1, :4] = 0
        made = hybrid.generate(ids, attention_mask=mask, **how)
        assert torch.equal(made, hybrid.generate(ids, attention_mask=mask, use_cache=False, **how))
    return mixed


@pytest.mark.parametrize("kind", KINDS)
def test_layer_by_layer_equals_the_model_and_the_exported_hybrid(
    kind: str, tiny_pair: Path, tmp_path: Path
) -> None:
    model = tiny(kind, 3)
    base = saved(model, tmp_path / "base")
    other = saved(tiny_llama(seed=4), tmp_path / "other")
    with torch.inference_mode():
        stack = LayerStack.load(Parents(base, (other,)), CPU, torch.float32)
        own = by_layers(stack, tokens(), ())
        assert torch.equal(own, model(tokens()).logits)
        stack = LayerStack.load(
            Parents(saved(model, tmp_path / "all"), (base,)), CPU, torch.float32
        )
        assert torch.equal(by_layers(stack, tokens(), SET), own)
    mixed = check_export(base, other, tiny_pair / "donor", tmp_path / "hybrid", Graft())
    assert not torch.allclose(own, mixed)


@pytest.mark.parametrize("kind", [k for k in KINDS if "-" not in k and k != "qwen2"])
def test_the_two_halves_of_a_layer_are_the_layer(kind: str, tmp_path: Path) -> None:
    model = tiny(kind, 3)
    same = saved(model, tmp_path)
    for swap in get_args(Swap):
        stack = LayerStack.load(Parents(same, (same,)), CPU, torch.float32, graft=Graft(swap=swap))
        with torch.inference_mode():
            assert torch.equal(by_layers(stack, tokens(), SET), model(tokens()).logits)


@pytest.mark.parametrize(
    ("kind", "swap"), [("bamba", "mixer"), ("falcon_h1", "mlp"), ("gemma2", "mixer")]
)
def test_a_half_is_swapped_alone(kind: str, swap: Swap, tiny_pair: Path, tmp_path: Path) -> None:
    one = saved(tiny(kind, 3), tmp_path / "one")
    other = saved(tiny_llamba(seed=5), tmp_path / "other")
    found = [
        check_export(base, donor, tiny_pair / "donor", tmp_path / base.name / "out", graft)
        for base, donor in ((one, other), (other, one))
        for graft in [Graft(swap=swap)]
    ]
    with torch.inference_mode():
        for base, donor, mixed in ((one, other, found[0]), (other, one, found[1])):
            for chosen in ((), SET):
                whole = LayerStack.load(Parents(base, (donor,)), CPU, torch.float32)
                assert not torch.allclose(by_layers(whole, tokens(), chosen), mixed)


@pytest.mark.parametrize("kind", ["bamba", "gemma3_text", "smollm3"])
def test_a_map_takes_other_layers_of_a_deeper_donor(
    kind: str, tiny_pair: Path, tmp_path: Path
) -> None:
    more = {"layer_types": ["sliding_attention", "full_attention"] * 4} if "gemma" in kind else {}
    donor = tiny(kind, 6, num_hidden_layers=8, **more)
    base = saved(tiny_llama(seed=4), tmp_path / "base")
    theirs = saved(donor, tmp_path / "donor")
    graft = Graft(maps=((7, 6, 5, 4, 3, 2),))
    mixed = check_export(base, theirs, tiny_pair / "donor", tmp_path / "hybrid", graft)
    with pytest.raises(ModelError, match="one depth and width, or give a donor_map"):
        LayerStack.load(Parents(base, (theirs,)), CPU, torch.float32)
    stack = LayerStack.load(Parents(base, (theirs,)), CPU, torch.float32, graft=graft)
    for i in range(LAYERS):
        want = donor.model.layers[7 - i].state_dict()
        found = stack.sides[1].layers[i].state_dict()
        assert all(torch.equal(found[name], want[name]) for name in want)
    assert mixed.isfinite().all()


def test_the_parents_have_attention_windows_of_their_own(tiny_pair: Path, tmp_path: Path) -> None:
    base = saved(tiny("mistral-window", 3), tmp_path / "base")
    donor = saved(tiny("mistral-window", 4, sliding_window=5), tmp_path / "donor")
    check_export(base, donor, tiny_pair / "donor", tmp_path / "hybrid", Graft())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("zamba2", r"no adapter in optlayers/models/families\.py: .* no layer of it stands alone"),
        ("gemma3", "gemma3_text"),
        ("gpt2", r"add a Family to optlayers/models/families\.py"),
    ],
)
def test_a_model_type_without_an_adapter_is_one_line(kind: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    with pytest.raises(ModelError, match=words) as caught:
        Checkpoint("model", tmp_path)
    assert "\n" not in str(caught.value)


def test_another_mamba_without_a_model_type_is_not_taken_for_a_llamba(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"d_model": 64, "n_layer": 2, "ssm_cfg": {}}')
    with pytest.raises(ModelError, match="no model_type is named; add it, such as llama"):
        Checkpoint("model", tmp_path)
