"""Log-probabilities, perplexity and divergence: values, scores, and a search on them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from optlayers.checkpoints.parents import open_parents
from optlayers.config.metrics import NATS, describe, native, to_nats, to_unit
from optlayers.config.study import StudyDefinition, parse_study
from optlayers.errors import InputError
from optlayers.evaluation.evaluator import ModelEvaluator
from optlayers.evaluation.questions import by_subject
from optlayers.layerset import LayerSet
from optlayers.results.view import StudyView
from optlayers.storage.connect import open_study
from optlayers.trials.answers import decode_answers, encode_answers
from optlayers.workers.worker import Worker
from tests.helpers.paths import DEMO_TASKS
from tests.helpers.tiny import export

CPU = torch.device("cpu")
LAYERS = LayerSet.of(1, 4)
EVERY = LayerSet.of(0, 1, 2, 3, 4, 5)
CHUNK = 24
STUDY = """
name: mixed
base: {{model: {pair}/base}}
donor: {{model: {pair}/donor}}
layers: {{min: 1, max: 2}}
tasks:
  - {{name: demo_capitals, metric: logprob}}
  - {{name: demo_order, weight: 0.5}}
  - {{name: prose, text: {text}, metric: perplexity, chunk: {chunk}}}
  - {{name: same, text: {text}, metric: kl, chunk: {chunk}, weight: 2.0}}
task_path: {tasks}
questions: {{fast: 2, full: 4, holdout: 0.2}}
explore: {{population: 4, generations: 1, patience: 1}}
validate: {{top: 1}}
refine: {{top: 1, verify: 1, rounds: 1}}
"""


@pytest.fixture(scope="module")
def definition(tiny_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyDefinition:
    text = tmp_path_factory.mktemp("text") / "prose.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 12, encoding="utf-8")
    filled = STUDY.format(pair=tiny_pair, text=text, tasks=DEMO_TASKS, chunk=CHUNK)
    return parse_study(filled, "mixed.yaml", text.parent)


def test_each_value_is_what_the_exported_checkpoint_gives(
    definition: StudyDefinition, evaluator: ModelEvaluator, tmp_path: Path
) -> None:
    parents = open_parents(definition)
    folder = parents.donors[0].folder
    export(parents, LAYERS, tmp_path / "hybrid")
    hybrid = AutoModelForCausalLM.from_pretrained(tmp_path / "hybrid")
    teacher = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = Path(str(definition.tasks[2].text)).read_text()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    runs = [ids[i : i + CHUNK] for i in range(0, len(ids) - CHUNK + 1, CHUNK)]
    given = torch.tensor([[tokenizer.eos_token_id, *run[:-1]] for run in runs])
    with torch.inference_mode():
        logs = torch.log_softmax(hybrid(given).logits, -1)
        theirs = torch.log_softmax(teacher(given).logits, -1)
    likely = logs.gather(2, torch.tensor(runs)[..., None]).mean(1)[:, 0].numpy()
    gaps = (theirs.exp() * (theirs - logs)).sum(-1).mean(1).numpy()

    subject, document = evaluator.all_questions()
    found, whole = evaluator.answers([LAYERS, EVERY], subject, document)
    assert isinstance(found, np.ndarray)
    assert isinstance(whole, np.ndarray)
    step = NATS / 65535
    np.testing.assert_allclose(to_nats(found[subject == 2]), likely, atol=step + 1e-4)
    np.testing.assert_allclose(-to_nats(found[subject == 3]), gaps, atol=step + 1e-4)
    # The ends of the two are alike, so that all of the donor's layers are the donor.
    np.testing.assert_allclose(to_nats(whole[subject == 3]), 0.0, atol=step)

    questions = evaluator.tasks.questions([0] * 3, [0, 1, 2])
    for question, value in zip(questions, found[subject == 0], strict=False):
        nats = []
        for request in question.requests:
            with torch.inference_mode():
                rows = torch.log_softmax(hybrid(torch.tensor([request.tokens])).logits[0], -1)
            tail = rows[-len(request.targets) :]
            nats.append(float(tail.gather(1, torch.tensor(request.targets)[:, None]).mean()))
        assert evaluator.tasks.winners(question) is None  # the value is no matter of the likeliest
        right = evaluator.tasks._right_choices(question)
        assert right is not None
        assert to_nats(float(value)) == pytest.approx(max(np.array(nats)[right]), abs=1e-3)
    assert set(found[subject == 1].tolist()) <= {0.0, 1.0}
    means = by_subject(evaluator.order.subjects, subject, found)
    assert native("perplexity", means["prose"]) == pytest.approx(math.exp(-likely.mean()), rel=1e-3)


def test_a_search_on_values_stores_compares_and_checks_them(
    definition: StudyDefinition, evaluator: ModelEvaluator, tmp_path: Path
) -> None:
    study = open_study(f"sqlite:///{tmp_path}/optuna.db", definition)
    worker = Worker(definition, study, evaluator)
    assert worker.run()
    rows = StudyView.of(definition, study).compared
    best = rows[0].record
    again = evaluator.evaluate([best.layers], 0, int(best.questions or 0))[0]
    assert best.answers is not None
    np.testing.assert_array_equal(best.answers, again)
    assert worker.rungs.score.score(best.answers) == pytest.approx(rows[0].score, abs=1e-12)
    assert 0.0 < rows[0].ci_low < rows[0].score < rows[0].ci_high < 1.0
    compared = rows[0].comparison
    assert compared is not None
    assert compared.to_base is not None
    assert compared.to_donor is not None
    assert compared.held_out is not None
    assert compared.held_out.questions > 0


def test_values_come_back_as_stored_and_go_to_nats_and_back() -> None:
    values = np.random.default_rng(0).random(1001)
    text = encode_answers(values)
    assert len(text) < 2.7 * len(values) + 20
    again = decode_answers(text, 1001)
    np.testing.assert_allclose(again, values, atol=1 / 65535)
    assert encode_answers(again) == text
    np.testing.assert_array_equal(decode_answers(text, 5), again[:5])
    with pytest.raises(ValueError, match="1001 values for 1002 questions"):
        decode_answers(text, 1002)
    assert to_nats(to_unit(-1.25)) == pytest.approx(-1.25)
    assert describe(["perplexity"], to_unit(-math.log(8.0))) == "perplexity 8.000"
    assert describe(["kl", "kl"], to_unit(-0.5)) == "KL divergence 0.5000"
    assert describe(["acc"], 0.5) is None
    assert describe(["acc", "kl"], 0.5) is None


def test_a_text_that_is_missing_or_empty_is_refused(
    definition: StudyDefinition, tmp_path: Path
) -> None:
    for name, words in (("none.txt", "No such file"), ("empty.txt", "fewer than two tokens")):
        (tmp_path / "empty.txt").write_text("")
        task = definition.tasks[2].model_copy(update={"text": str(tmp_path / name)})
        broken = definition.model_copy(update={"tasks": [task]})
        with pytest.raises(InputError, match=words):
            ModelEvaluator(broken, CPU, torch.float32)
