"""Halves of layers, other indices, other ends: from the study file to a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from optlayers.checkpoints.card import documents
from optlayers.checkpoints.parents import open_parents
from optlayers.checkpoints.tokenizer import tokenizer_folder
from optlayers.config.study import load_study
from optlayers.evaluation.evaluator import ModelEvaluator
from optlayers.layerset import LayerSet
from optlayers.trials.answers import encode_answers
from tests.helpers.paths import DEMO_TASKS
from tests.helpers.tiny import STUDY, export, tiny_llama

LAYERS = LayerSet.of(1, 4)


def study_in(folder: Path, pair: Path, more: str = "") -> Path:
    path = folder / "mine.yaml"
    text = STUDY.format(file=path.name, pair=pair, tasks=DEMO_TASKS)
    path.write_text(text + more, encoding="utf-8")
    return path


def test_mixers_of_other_indices_are_x(tiny_pair: Path, tmp_path: Path) -> None:
    path = study_in(tmp_path, tiny_pair, "swap: mixer\ndonor_map: [5, 4, 3, 2, 1, 0]\n")
    study, cpu = load_study(str(path)), torch.device("cpu")
    evaluator = ModelEvaluator(study, cpu, torch.float32)
    answers = evaluator.evaluate([LAYERS], 0, evaluator.order.n_full)[0]
    assert not isinstance(answers, Exception)
    score = {
        "score": float(answers.mean()),
        "ci_low": 0.0,
        "ci_high": 1.0,
        "questions": len(answers),
        "fidelity": "full",
        "answers": encode_answers(answers),
    }
    parents = open_parents(study, LAYERS)
    texts = documents(study, parents, LAYERS, score)
    folder = tmp_path / "hybrid"
    export(parents, LAYERS, folder, texts, graft=study.graft)
    card = (folder / "README.md").read_text()
    assert "2 of its 6 mixers come from donor,\nwhere they have the indices 4, 1." in card
    # What an engineer would measure on the folder, without the engine.
    model = AutoModelForCausalLM.from_pretrained(folder)
    subject = evaluator.order.subject[:12].tolist()
    questions = evaluator.tasks.questions(subject, evaluator.order.document[:12].tolist())
    for question, right in zip(questions, answers, strict=False):
        results = []
        for request in question.requests:
            with torch.inference_mode():
                logs = torch.log_softmax(model(torch.tensor([request.tokens])).logits[0], -1)
            tail = logs[-len(request.targets) :]
            picked = tail.gather(1, torch.tensor(request.targets)[:, None])
            results.append((float(picked.sum()), False))
        assert evaluator.tasks.value(question, results) == right


def test_the_ends_of_the_base_rule_and_the_log_says_so(tiny_pair: Path, tmp_path: Path) -> None:
    base = tiny_llama(seed=8, vocab_size=1200, rms_norm_eps=1e-3)
    base.save_pretrained(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tiny_pair / "donor")
    tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "donor").symlink_to(tiny_pair / "donor")
    study = load_study(str(study_in(tmp_path, tmp_path)))
    said: list[str] = []
    ModelEvaluator(study, torch.device("cpu"), torch.float32, said.append)
    note = next(line for line in said if "differ at the ends" in line)
    assert "vocabularies of 1200 and 1024 tokens" in note
    assert "0.001" in note
    assert note.endswith("the base's are used")
    assert tokenizer_folder(study) == tmp_path / "base"
