from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from optlayers.checkpoints.parents import open_parents
from optlayers.checkpoints.tokenizer import load_tokenizer
from optlayers.config.study import StudyDefinition, load_study, parse_study
from optlayers.errors import EvaluationError, InputError, ModelError
from optlayers.evaluation.engine import Engine
from optlayers.evaluation.evaluator import ModelEvaluator
from optlayers.inference.device import pick_device, pick_dtype
from optlayers.layerset import LayerSet

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def definition(tiny_study: Path) -> StudyDefinition:
    return load_study(str(tiny_study))


def changed(tiny_study: Path, *lines: str) -> StudyDefinition:
    """The tiny study with lines in the place of its lines of the same fields."""
    fields = [line.partition(":")[0] for line in lines]
    kept = [
        line for line in tiny_study.read_text().splitlines() if line.partition(":")[0] not in fields
    ]
    return parse_study("\n".join([*kept, *lines]), "changed.yaml", tiny_study.parent)


def test_slices_join_to_the_whole(evaluator: ModelEvaluator) -> None:
    sets = [LayerSet.of(2), LayerSet.of(0, 5)]
    whole = evaluator.evaluate(sets, 0, 12)
    parts = [evaluator.evaluate(sets, 0, 5), evaluator.evaluate(sets, 5, 12)]
    for i in range(2):
        joined = np.concatenate([np.asarray(part[i]) for part in parts])
        np.testing.assert_array_equal(joined, np.asarray(whole[i]))


def test_held_out_questions_are_evaluated_too(tiny_study: Path) -> None:
    definition = changed(tiny_study, "questions: {fast: 1, full: 2, holdout: 0.02}")
    evaluator = ModelEvaluator(definition, CPU, torch.float32)
    [answers] = evaluator.held_out([LayerSet.of(1)])
    assert isinstance(answers, np.ndarray)
    assert len(answers) == len(evaluator.order.held_subject) == 8 * 3


def test_nan_gives_an_error_to_that_set_alone(evaluator: ModelEvaluator) -> None:
    sets = [LayerSet.of(2), LayerSet.of(3), LayerSet.of(2, 3), LayerSet.of()]
    before = evaluator.evaluate(sets, 0, 6)
    weight = evaluator.stack.sides[1].layers[3].get_parameter("mlp.down_proj.weight")
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0] = torch.nan
    try:
        after = evaluator.evaluate(sets, 0, 6)
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    for i, layers in enumerate(sets):
        if 3 in layers:
            error = after[i]
            assert isinstance(error, EvaluationError)
            assert str(error).startswith(f"layers [{layers}]: NaN in the logits")
        else:
            np.testing.assert_array_equal(np.asarray(after[i]), np.asarray(before[i]))


class SmallDevice(Engine):
    """An engine whose device holds at most `room` rows at a time."""

    room = 0

    def _run(self, layer_sets, batch, *rest):  # type: ignore[no-untyped-def]
        if len(batch) > self.room:
            raise torch.cuda.OutOfMemoryError
        return super()._run(layer_sets, batch, *rest)


def test_out_of_memory_halves_the_batch_and_goes_on(
    evaluator: ModelEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator.stack, "narrow", False)  # one batch after another, as on a GPU
    sets = [LayerSet.of(2), LayerSet.of(4)]
    order = evaluator.order
    questions = evaluator.tasks.questions(order.subject[:9].tolist(), order.document[:9].tolist())
    expected = evaluator.engine.likelihoods(sets, questions)
    small = SmallDevice(evaluator.stack, evaluator.tasks, CPU, 4096)
    small.room = 2
    np.testing.assert_allclose(small.likelihoods(sets, questions), expected, atol=1e-4)
    assert small.budget < 4096
    small.room = 0
    with pytest.raises(EvaluationError, match=r"out of memory for one sequence of \d+ tokens"):
        small.likelihoods(sets, questions)


def test_work_counts_what_was_run_and_what_was_saved(evaluator: ModelEvaluator) -> None:
    engine = Engine(evaluator.stack, evaluator.tasks, CPU)
    questions = evaluator.tasks.questions([0, 1], [0, 0])
    # The choices of one token share one sequence a question.
    tokens = sum(len(question.requests[0].tokens) for question in questions)
    engine.likelihoods([LayerSet.of(5), LayerSet.of(4)], questions)
    assert engine.work.layer_tokens == (4 + 2 * 2) * tokens
    assert engine.work.saved_layer_tokens == 4 * tokens


def test_a_limit_takes_the_first_documents_of_each_task(tiny_study: Path) -> None:
    evaluator = ModelEvaluator(load_study(str(tiny_study)), CPU, torch.float32, limit=2)
    asked = zip(*(part.tolist() for part in evaluator.all_questions()), strict=True)
    assert list(asked) == [(s, d) for s in range(8) for d in range(2)]


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "meta", "cpu:x", ""])
def test_a_device_that_is_not_there_is_one_line(name: str) -> None:
    with pytest.raises(InputError, match="device") as caught:
        pick_device(name)
    assert "\n" not in str(caught.value)


def test_the_dtype_follows_the_device_unless_named() -> None:
    assert pick_device("cpu") == CPU
    assert pick_dtype(None, CPU) == torch.float32
    assert pick_dtype(None, torch.device("cuda")) == torch.bfloat16
    assert pick_dtype("float16", CPU) == torch.float16
    with pytest.raises(InputError, match="dtype 'int8': choose one of float32"):
        pick_dtype("int8", CPU)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("layers: {min: 1, max: 7}", "layers.max is 7, and the models have 6 layers"),
        ("prior: {single_layer_scores: [0.1, 0.2, 0.3]}", "3 scores, and the models have 6"),
        ("prior: {layer_sets: [[6]]}", "layer 6: the models have 6 layers"),
        ("base: {model: ./nowhere}", "nowhere: there is no such folder"),
    ],
)
def test_a_study_that_does_not_fit_the_models_is_one_line(
    tiny_study: Path, line: str, words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        open_parents(changed(tiny_study, line))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_cannot_be_loaded_is_one_line(tiny_study: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be loaded.*name one with `tokenizer:`") as caught:
        load_tokenizer(changed(tiny_study, f"tokenizer: {tmp_path}"))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_more_tokens_than_the_base_embeds_is_refused(
    tiny_study: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_study.parent / "donor", tmp_path / "tokenizer")
    data = json.loads((folder / "tokenizer.json").read_text())
    extra = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    data["added_tokens"] += [
        {"id": 1024 + i, "content": f"<|{i}|>", "special": True, **extra} for i in range(9)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(ModelError, match=r"ids up to 1032 and base .* embeds 1024"):
        ModelEvaluator(changed(tiny_study, f"tokenizer: {folder}"), CPU, torch.float32)
