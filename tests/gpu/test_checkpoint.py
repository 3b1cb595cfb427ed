"""Checkpoints on a GPU: bf16 and float32, cache, generation, and the search engine's logits.

Run by hand on a machine with a GPU: `python -m pytest -m gpu tests/gpu`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from optlayers.inference.packed import PackedBatch
from optlayers.inference.stack import LayerStack
from optlayers.layerset import LayerSet
from tests.helpers.engine import relative_error
from tests.helpers.tiny import export, parents_in

LAYERS = LayerSet.of(2, 5, 11)
HOW: dict[str, Any] = {"max_new_tokens": 20, "min_new_tokens": 20, "do_sample": False}

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def pair(cuda: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from benchmarks.lib.random_pair import make_pair

    folder: Path = tmp_path_factory.mktemp("pair")
    make_pair(folder, "demo", "cuda", "float32")
    return folder


@pytest.fixture(scope="module")
def exported(pair: Path) -> Path:
    return export(parents_in(pair), LAYERS, pair / "hybrid")


def load(folder: Path, dtype: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to("cuda").eval()


def tokens(batch: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(4, 2048, (batch, length), generator=generator).cuda()


# Of float32; bfloat16 is measured against the distance that the checkpoint itself has from it.
NEAR = 1e-4
AS_NEAR = 1.5


def assert_as_near(found: torch.Tensor, own: torch.Tensor, exact: torch.Tensor) -> None:
    """`found` is about as far from float32 as the checkpoint's own whole forward pass is."""
    assert relative_error(found, exact) < max(NEAR, AS_NEAR * relative_error(own, exact))


def test_the_checkpoint_and_the_stack_give_the_same_logits(
    pair: Path, exported: Path, dtype: torch.dtype, cuda: torch.device
) -> None:
    stack = LayerStack.load(parents_in(pair), cuda, dtype)
    ids = tokens(4, 150)
    with torch.inference_mode():
        exact = load(exported, torch.float32)(ids).logits
        wanted = load(exported, dtype)(ids).logits
        h, inputs = stack.begin(ids)
        for layer in range(stack.n_layers):
            h = stack.run(layer, layer in LAYERS, h, inputs)
        assert_as_near(stack.logits(h), wanted, exact)
        batch = PackedBatch.of([(row.tolist(), 0, -1) for row in ids], cuda)
        h = stack.begin_packed(batch)
        for layer in range(stack.n_layers):
            h = stack.run_packed(layer, layer in LAYERS, h, batch)
        assert_as_near(stack.logits(h).reshape(wanted.shape), wanted, exact)


def test_token_by_token_is_near_the_whole(exported: Path, dtype: torch.dtype) -> None:
    model = load(exported, dtype)
    ids = tokens(2, 40)
    cache, steps = None, []
    with torch.inference_mode():
        exact = load(exported, torch.float32)(ids).logits
        whole = model(ids).logits
        for t in range(ids.shape[1]):
            out = model(ids[:, t : t + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            steps.append(out.logits)
    assert_as_near(torch.cat(steps, 1), whole, exact)


def test_a_padded_batch_generates_what_each_prompt_alone_does(exported: Path) -> None:
    model = load(exported, torch.float32)
    ids = tokens(2, 30)
    mask = torch.ones_like(ids)
    mask[1, :11] = 0
    both = model.generate(input_ids=ids, attention_mask=mask, **HOW)
    alone = model.generate(input_ids=ids[1:, 11:], **HOW)
    assert torch.equal(both[1, 30:], alone[0, 19:])
    beams = model.generate(input_ids=ids, attention_mask=mask, num_beams=3, **HOW)
    assert beams.shape == both.shape


def test_training_steps_lower_the_loss(exported: Path) -> None:
    model = load(exported, torch.bfloat16).train()
    model.gradient_checkpointing_enable()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    ids, losses = tokens(4, 60), []
    for _ in range(5):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
