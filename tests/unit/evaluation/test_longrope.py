"""Rotary embeddings whose frequencies depend on the longest sequence of a batch (longrope)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from optlayers.evaluation.engine import Engine
from optlayers.evaluation.questions import Question, Request
from optlayers.inference.stack import LayerStack
from optlayers.layerset import LayerSet
from tests.helpers.tiny import parents_in, tiny_llama, train_tiny_tokenizer

CPU = torch.device("cpu")
ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "original_max_position_embeddings": 16,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [4.0, 6.0, 8.0, 9.0],
}
WORDS = [f"word {i} of" for i in range(12)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("longrope")
    for seed, name in enumerate(("base", "donor"), 1):
        tiny_llama(seed, rope_parameters=ROPE).save_pretrained(folder / name)
        train_tiny_tokenizer().save_pretrained(folder / name)
    return folder


def of_texts(lm: Any) -> tuple[list[Instance], list[Question]]:
    """Texts of which some are short and some long, as lm-eval and the engine take them."""
    instances, questions = [], []
    for number in range(12):
        prompt, target = " ".join(WORDS[: number + 1]), f" {WORDS[-number]}"
        instances.append(Instance("loglikelihood", {}, (prompt, target), 0))
        context, targets = lm._encode_pair(prompt, target)
        request = Request(tuple((context + targets)[:-1]), tuple(targets))
        questions.append(Question(0, number, (request,)))
    lengths = [len(question.requests[0].tokens) for question in questions]
    assert min(lengths) < 16 < max(lengths)
    return instances, questions


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("budget", [64, 100_000])
def test_likelihoods_do_not_depend_on_the_batch(pair: Path, packed: bool, budget: int) -> None:
    lm = HFLM(pretrained=str(pair / "base"), dtype="float32", device="cpu", batch_size=1)
    instances, questions = of_texts(lm)
    expected = [likelihood for likelihood, _ in lm.loglikelihood(instances, disable_tqdm=True)]
    stack = LayerStack.load(parents_in(pair), CPU, torch.float32)
    assert stack.rotary_limits == [16]
    engine = Engine(stack, None, CPU, budget=budget, packed=packed)  # type: ignore[arg-type]
    found = engine.likelihoods([LayerSet.of()], questions)[0, :, 0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
