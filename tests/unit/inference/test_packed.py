"""Packed layers against the models' own padded forward pass; shared contexts against none."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch

from optlayers.checkpoints.parents import Parents
from optlayers.evaluation.engine import Engine
from optlayers.evaluation.questions import Question, Request
from optlayers.inference.flat import flat_size, flatten
from optlayers.inference.narrow import ONE_CHUNK, NarrowOps
from optlayers.inference.packed import Ops, PackedBatch, run_layer
from optlayers.inference.packing import NO_SHARING
from optlayers.inference.stack import LayerStack
from optlayers.inference.threads import map_in_threads
from optlayers.layerset import LayerSet
from tests.helpers.engine import EveryLikelihood

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stack(tiny_parents: Parents) -> LayerStack:
    return LayerStack.load(tiny_parents, CPU, torch.float32)


def few_shot_questions() -> list[Question]:
    """Three subjects with a long context each; choices of one token, and of several."""
    rng = np.random.default_rng(0)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(1, 1000, count))

    questions = []
    for subject in range(3):
        context = draw(60)
        for document in range(4):
            asked = context + draw(int(rng.integers(5, 30)))
            if document % 2:
                requests = [Request(asked, (choice,)) for choice in (7, 8, 9, 10)]
            else:
                ends = [draw(int(n)) for n in (2, 3, 4)]
                requests = [Request((asked + end)[:-1], end) for end in ends]
            questions.append(Question(subject, document, tuple(requests)))
    return questions


SETS = [LayerSet.of(), LayerSet.of(0), LayerSet.of(1, 4), LayerSet.of(0, 1, 2, 3, 4, 5)]


def test_packed_and_padded_engines_agree(stack: LayerStack) -> None:
    questions = few_shot_questions()
    padded = Engine(stack, EveryLikelihood(), CPU, packed=False).likelihoods(SETS, questions)
    for share in (8, NO_SHARING):
        engine = Engine(stack, EveryLikelihood(), CPU, packed=True, share=share)
        found = engine.likelihoods(SETS, questions)
        np.testing.assert_allclose(found[..., 0], padded[..., 0], rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(found[..., 1], padded[..., 1])
        assert (engine.work.saved_context_tokens > 0) == (share == 8)


def test_a_long_shared_context_is_packed_by_itself_on_a_cpu(stack: LayerStack) -> None:
    engine = Engine(stack, EveryLikelihood(), CPU)
    engine.likelihoods(SETS[:1], few_shot_questions())
    assert engine.work.saved_context_tokens > 0


@pytest.mark.parametrize("packed", [False, True])
def test_the_tree_changes_only_the_work(stack: LayerStack, packed: bool) -> None:
    questions = few_shot_questions()
    alone = Engine(stack, EveryLikelihood(), CPU, packed=packed, tree=False)
    usual = Engine(stack, EveryLikelihood(), CPU, packed=packed)
    found = usual.likelihoods(SETS, questions)
    np.testing.assert_array_equal(found, alone.likelihoods(SETS, questions))
    assert alone.work.saved_layer_tokens == 0 < usual.work.saved_layer_tokens


@pytest.mark.parametrize("packed", [False, True])
def test_trimming_changes_only_rounding(
    stack: LayerStack, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = few_shot_questions()
    rows: list[int] = []
    real = stack.logits

    def logits(h: torch.Tensor, wanted: torch.Tensor | None = None) -> torch.Tensor:
        rows.append(len(h))
        return real(h, wanted)

    monkeypatch.setattr(stack, "logits", logits)
    found, run = [], []
    for trim in (False, True):
        rows.clear()
        engine = Engine(stack, EveryLikelihood(), CPU, packed=packed, trim=trim)
        found.append(engine.likelihoods(SETS, questions))
        run.append(sum(rows))
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    np.testing.assert_array_equal(found[0][..., 1], found[1][..., 1])
    assert 0 < 3 * run[1] < run[0]  # positions that reach the head


def test_needed_vocabulary_rows_give_the_same_comparison(stack: LayerStack) -> None:
    questions = [q for q in few_shot_questions() if len({r.tokens for r in q.requests}) == 1]
    engine = Engine(stack, EveryLikelihood(), CPU)
    whole = engine.likelihoods(SETS, questions, relative=False)[..., 0].reshape(4, -1, 4)
    few = engine.likelihoods(SETS, questions, relative=True)[..., 0].reshape(4, -1, 4)
    assert not np.allclose(whole, few)
    np.testing.assert_allclose(whole - whole[..., :1], few - few[..., :1], rtol=1e-4, atol=1e-4)


def test_the_convolution_looks_back_into_the_parent() -> None:
    batch = PackedBatch.of([([1, 2, 3, 4], 0, -1), ([5, 6], 4, 0), ([7], 4, 0)], CPU)
    assert batch.look.tolist() == [
        [-1, 0, 1, 2, 3, 4, 3],
        [-1, -1, 0, 1, 2, 3, 2],
        [-1, -1, -1, 0, 1, 2, 1],
    ]
    assert batch.slots == [0, -1, -1]
    assert [level.tolist() for level in batch.levels] == [[0], [1, 2]]


@pytest.mark.parametrize("length", [1, 3, 40, ONE_CHUNK + 30])
@pytest.mark.parametrize("side", [0, 1])
def test_sequences_of_one_length_run_at_once_as_one_by_one(
    stack: LayerStack, side: int, length: int
) -> None:
    assert stack.narrow_ops
    rows = torch.randint(1, 1000, (5, length), generator=torch.Generator().manual_seed(side))
    batch = PackedBatch.of([(row, 0, -1) for row in rows.tolist()], CPU)
    assert batch.equal_lengths
    h = stack.begin_packed(batch)
    layer, rotary = stack.sides[side].layers[1], batch.rotary[side]
    kind = stack.sides[side].config.model_type
    expected = run_layer(kind, Ops(), layer, h, batch, rotary)
    for _ in range(2):  # the second time in the memory of the first
        found = run_layer(kind, NarrowOps(), layer, h, batch, rotary)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    kept = run_layer(kind, NarrowOps(), layer, h, batch, rotary, torch.tensor([0, 4 * length]))
    torch.testing.assert_close(kept, expected[[0, 4 * length]], rtol=1e-4, atol=1e-5)


def test_other_batches_run_as_in_the_reference(stack: LayerStack) -> None:
    shared = [([1, 2, 3, 4], 0, -1), ([5, 6], 4, 0), ([7, 8], 4, 0)]
    for parts in (shared, [([1, 2], 0, -1), ([3], 0, -1)]):
        batch = PackedBatch.of(parts, CPU)
        assert not batch.equal_lengths
        h = stack.begin_packed(batch)
        for side in range(2):
            kind, layer = stack.sides[side].config.model_type, stack.sides[side].layers[1]
            ways = [
                run_layer(kind, ops, layer, h, batch, batch.rotary[side])
                for ops in (Ops(), NarrowOps())
            ]
            torch.testing.assert_close(*ways, rtol=1e-4, atol=1e-5)


def test_threads_change_nothing(stack: LayerStack) -> None:
    questions = few_shot_questions()
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            engine = Engine(stack, EveryLikelihood(), CPU, budget=200, share=NO_SHARING)
            found.append(engine.likelihoods(SETS, questions))
            assert torch.get_num_threads() == count
            assert engine.work.layer_tokens > 0
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_an_error_in_a_thread_is_raised_and_ends_the_rest() -> None:
    begun: list[int] = []

    def work(batch: int) -> int:
        begun.append(batch)
        if batch == 1:
            raise ValueError("batch 1")
        time.sleep(0.01 * (batch > 1))  # or a busy machine ends all before the error is seen
        return batch

    with pytest.raises(ValueError, match="batch 1"):
        list(map_in_threads(work, range(1000), 2))
    assert len(begun) < 1000


@pytest.mark.parametrize("side", [0, 1])
def test_a_flattened_layer_computes_the_same_with_joined_projections(
    tiny_parents: Parents, side: int
) -> None:
    stack = LayerStack.load(tiny_parents, CPU, torch.float32)
    h, inputs = stack.begin(torch.arange(1, 21)[None])
    before = stack.run(2, bool(side), h, inputs)
    layer: Any = stack.sides[side].layers[2]
    buffer = torch.empty(flat_size(layer))
    flatten(layer, buffer)
    torch.testing.assert_close(stack.run(2, bool(side), h, inputs), before, rtol=0, atol=0)
    start = buffer.data_ptr()
    for parameter in layer.parameters():
        assert start <= parameter.data_ptr() < start + 4 * len(buffer)
    mlp = layer.mlp
    rows = mlp.gate_proj.weight.shape[0]
    assert torch.equal(mlp.joined_weight[:rows], mlp.gate_proj.weight)
    assert torch.equal(mlp.joined_weight[rows:], mlp.up_proj.weight)
