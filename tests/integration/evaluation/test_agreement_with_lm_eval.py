"""The engine's answers, tokens and likelihoods against lm-eval's own on the exported checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from optlayers.config.fields import TaskSpec
from optlayers.errors import TaskError
from optlayers.evaluation.engine import Engine
from optlayers.evaluation.isolated import IsolatedCheckpoint
from optlayers.evaluation.questions import Question, by_subject
from optlayers.evaluation.tasks import TaskSet
from optlayers.evaluation.verify import RecordedAnswers, compare
from optlayers.inference.stack import LayerStack
from optlayers.layerset import LayerSet
from optlayers.trials.answers import decode_answers, encode_answers
from optlayers.trials.statistics import StratifiedScore
from tests.helpers.paths import DEMO_TASKS
from tests.helpers.tiny import export, parents_in

LAYERS = LayerSet.of(1, 4)
CPU = torch.device("cpu")

DATA = """
import json
from pathlib import Path
from datasets import Dataset

def load(file, **_):
    data = json.loads((Path(__file__).parent / f"{file}.json").read_text("utf-8"))
    return {split: Dataset.from_list(docs) for split, docs in data.items()}
"""
METRIC = "  - {{metric: {0}, aggregation: mean, higher_is_better: true}}\n"
WORDS = """
task: words
custom_dataset: !function data.load
dataset_kwargs: {file: words}
training_split: train
fewshot_split: train
test_split: test
output_type: multiple_choice
num_fewshot: 2
doc_to_text: "{{question}}"
doc_to_target: answer
doc_to_choice: "{{choices}}"
metric_list:
"""
LAST_WORD = """
task: last_word
custom_dataset: !function data.load
dataset_kwargs: {file: last_word}
test_split: test
output_type: loglikelihood
doc_to_text: "{{text}}"
doc_to_target: "{{' ' + word}}"
metric_list:
"""
GROUP = """
group: both{number}
task: [words, last_word]
aggregate_metric_list: [{{metric: acc, weight_by_size: {by_size}}}]
"""
FILTERS = """
def least(resps, docs):
    return [(-likelihood, greedy) for likelihood, greedy in resps]
"""
LEAST = """
  - name: least
    filter: [{function: take_first}, {function: custom, filter_fn: !function turned.least}]
"""
LIKELIEST = """
  - name: likeliest
    filter: [{function: take_first}]
"""
GRADED = """
import math

def share(doc, results):
    likelihoods = [result[0] for result in results]
    shares = [math.exp((x - max(likelihoods)) / 20) for x in likelihoods]
    return {"acc": shares[doc["answer"]] / sum(shares)}
"""
TURNED = """
group: turned
task: [turned_two, turned_one]
aggregate_metric_list:
  - {metric: acc, filter_list: [least], weight_by_size: false}
  - {metric: acc, filter_list: likeliest, weight_by_size: true}
"""


def in_order(tasks: TaskSet) -> list[Question]:
    """All questions, subject by subject, in lm-eval's order."""
    pairs = [(s, int(d)) for s, subject in enumerate(tasks.subjects) for d in subject.numbers]
    return tasks.questions([s for s, _ in pairs], [d for _, d in pairs])


class Both:
    """The exported hybrid in lm-eval, and the same pair in the engine."""

    def __init__(self, pair: Path, exported: Path) -> None:
        self.exported = exported
        self.lm = HFLM(pretrained=str(exported), dtype="float32", device="cpu", batch_size=4)
        self.stack = LayerStack.load(parents_in(pair), CPU, torch.float32)

    def theirs(self, name: str, folder: Path, limit: int | None, **how: Any) -> dict[str, Any]:
        result = simple_evaluate(
            self.lm,
            tasks=[name],
            limit=limit,
            bootstrap_iters=0,
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            **how,
        )
        assert result is not None
        return dict(result)

    def tasks(self, spec: TaskSpec, folder: Path, limit: int | None) -> TaskSet:
        tasks = TaskSet([spec], str(folder), limit)
        tasks.prepare(
            self.lm.tokenizer, SimpleNamespace(max_position_embeddings=self.lm.max_length)
        )
        return tasks

    def answers(self, spec: TaskSpec, folder: Path) -> dict[str, list[bool]]:
        """Right or wrong of each question of each task, in lm-eval's order."""
        tasks = self.tasks(spec, folder, None)
        questions = in_order(tasks)
        answers = Engine(self.stack, tasks, CPU).answers([LAYERS], questions)[0]
        assert isinstance(answers, np.ndarray)
        found: dict[str, list[bool]] = {}
        for question, right in zip(questions, answers, strict=True):
            found.setdefault(tasks.subjects[question.subject].name, []).append(bool(right))
        return found

    def mine(
        self, spec: TaskSpec, folder: Path, limit: int | None
    ) -> tuple[float, dict[str, float], list[float]]:
        """Score, score of each subject, and the log-likelihood of every request."""
        tasks = self.tasks(spec, folder, limit)
        questions = in_order(tasks)
        engine = Engine(self.stack, tasks, CPU)
        answers = engine.answers([LAYERS], questions)[0]
        assert isinstance(answers, np.ndarray)
        strata = np.array([question.subject for question in questions])
        scorer = StratifiedScore(
            strata=strata,
            weights=np.array([subject.weight for subject in tasks.subjects]),
        )
        likelihoods = engine.likelihoods([LAYERS], questions)[0, :, 0].tolist()
        return scorer.score(answers), by_subject(tasks.subjects, strata, answers), likelihoods


@pytest.fixture(scope="module")
def both(tiny_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Both:
    out = tmp_path_factory.mktemp("agreement") / "hybrid"
    return Both(tiny_pair, export(parents_in(tiny_pair), LAYERS, out))


@pytest.fixture(scope="module")
def own_tasks(both: Both, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Choices of several words, one continuation, and two groups of both; the choices once more
    under filters, of which one takes the least likely for the likeliest, and a group of these."""
    folder: Path = tmp_path_factory.mktemp("own_tasks")
    (folder / "data.py").write_text(DATA)
    rng = np.random.default_rng(0)
    vocabulary = ["red", "old", "stone", "river", "of", "the", "quiet", "seven", "hills", "a road"]

    def doc(number: int) -> dict[str, Any]:
        choices = [" ".join(rng.choice(vocabulary, int(rng.integers(1, 6)))) for _ in range(4)]
        return {
            "question": f"Item {number}: what is it?",
            "choices": choices,
            "answer": int(rng.integers(4)),
        }

    splits = {"train": [doc(i) for i in range(5)], "test": [doc(i) for i in range(5, 17)]}
    (folder / "words.json").write_text(json.dumps(splits))
    (folder / "words.yaml").write_text(
        WORDS + METRIC.format("acc") + METRIC.format("acc_norm") + METRIC.format("acc_mutual_info")
    )
    docs = list(continuations(both.lm))
    (folder / "last_word.json").write_text(json.dumps({"test": docs}))
    (folder / "last_word.yaml").write_text(LAST_WORD + METRIC.format("acc"))
    (folder / "turned.py").write_text(FILTERS)
    for name, filters in (("two", LEAST + LIKELIEST), ("one", LEAST + LIKELIEST), ("sole", LEAST)):
        text = WORDS.replace("task: words", f"task: turned_{name}")
        text = text.replace("test_split: test", "test_split: train") if name == "one" else text
        text += METRIC.format("acc") + METRIC.format("acc_norm") + "filter_list:" + filters
        (folder / f"turned_{name}.yaml").write_text(text)
    (folder / "turned.yaml").write_text(TURNED)
    (folder / "graded.py").write_text(GRADED)
    (folder / "graded.yaml").write_text(
        WORDS.replace("task: words", "task: graded\nprocess_results: !function graded.share")
        + METRIC.format("acc")
    )
    for number, by_size in enumerate(("false", "true")):
        text = GROUP.format(number=number, by_size=by_size)
        (folder / f"both{number}.yaml").write_text(text)
    return folder


def continuations(lm: Any) -> Iterator[dict[str, str]]:
    """Texts, of which the model goes on with every other as the document says."""
    made = 0
    for number in range(1000):
        text = f"Number {number} is called"
        context = lm.tok_encode(text)
        with torch.inference_mode():
            best = int(lm.model(torch.tensor([context])).logits[0, -1].argmax())
        word = lm.tokenizer.decode([best])
        if word.startswith(" ") and lm.tok_encode(text + word) == [*context, best]:
            made += 1
            yield {"text": text, "word": word.strip() if made % 2 else "never"}
        if made == 5:
            return
    raise AssertionError("no fitting text was found")


def per_request(samples: dict[str, list[dict[str, Any]]]) -> list[float]:
    return [
        float(response[0][0])
        for rows in samples.values()
        for row in sorted(rows, key=lambda row: row["doc_id"])
        for response in row["resps"]
    ]


def test_the_demo_group_scores_as_lm_eval_scores_it(both: Both) -> None:
    limit = 3
    result = both.theirs("demo", DEMO_TASKS, limit)
    score, by_task, likelihoods = both.mine(TaskSpec(name="demo"), DEMO_TASKS, limit)
    assert score == result["groups"]["demo"]["acc,none"]
    expected = {name: result["results"][name]["acc,none"] for name in result["samples"]}
    assert by_task == expected
    assert len(expected) == 8
    np.testing.assert_allclose(likelihoods, per_request(result["samples"]), rtol=0, atol=1e-4)


def test_choices_of_many_tokens_with_examples_score_as_in_lm_eval(
    both: Both, own_tasks: Path
) -> None:
    result = both.theirs("words", own_tasks, None)
    for metric in ("acc", "acc_norm", "acc_mutual_info"):
        spec = TaskSpec(name="words", metric=metric)
        score, by_task, likelihoods = both.mine(spec, own_tasks, None)
        assert score == pytest.approx(result["results"]["words"][f"{metric},none"], abs=1e-12)
        assert by_task == {"words": score}
        np.testing.assert_allclose(likelihoods, per_request(result["samples"]), rtol=0, atol=1e-3)
    # The examples are in the prompts.
    texts = [row["arguments"][0][0] for row in result["samples"]["words"]]
    assert all(text.count("what is it?") == 3 for text in texts)


@pytest.mark.parametrize("shots", [0, 3])
def test_the_number_of_examples_can_be_set(both: Both, own_tasks: Path, shots: int) -> None:
    result = both.theirs("words", own_tasks, 6, num_fewshot=shots)
    spec = TaskSpec(name="words", num_fewshot=shots)
    score, _, likelihoods = both.mine(spec, own_tasks, 6)
    assert score == pytest.approx(result["results"]["words"]["acc,none"], abs=1e-12)
    np.testing.assert_allclose(likelihoods, per_request(result["samples"]), rtol=0, atol=1e-3)


def test_single_continuations_score_as_in_lm_eval(both: Both, own_tasks: Path) -> None:
    result = both.theirs("last_word", own_tasks, None)
    score, _, likelihoods = both.mine(TaskSpec(name="last_word"), own_tasks, None)
    assert score == pytest.approx(result["results"]["last_word"]["acc,none"], abs=1e-12)
    assert 0 < score < 1
    np.testing.assert_allclose(likelihoods, per_request(result["samples"]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("number", [0, 1], ids=["by_task", "by_size"])
def test_a_group_weighs_its_tasks_as_lm_eval_does(both: Both, own_tasks: Path, number: int) -> None:
    name = f"both{number}"
    result = both.theirs(name, own_tasks, None)
    score, by_task, _ = both.mine(TaskSpec(name=name), own_tasks, None)
    assert score == pytest.approx(result["groups"][name]["acc,none"], abs=1e-12)
    plain = float(np.mean(list(by_task.values())))
    assert (score == pytest.approx(plain)) is (number == 0)


def after(samples: list[dict[str, Any]], chosen: str, metric: str) -> list[bool]:
    """What lm-eval found of each document after a filter."""
    rows = sorted((row["doc_id"], row[metric]) for row in samples if row["filter"] == chosen)
    return [bool(right) for _, right in rows]


@pytest.mark.parametrize("metric", ["acc", "acc_norm"])
def test_every_filter_answers_as_in_lm_eval_and_the_first_unless_one_is_named(
    both: Both, own_tasks: Path, metric: str
) -> None:
    samples = both.theirs("turned", own_tasks, None)["samples"]
    answers = {}
    for name in ("least", "likeliest"):
        answers[name] = both.answers(TaskSpec(name="turned", metric=f"{metric},{name}"), own_tasks)
        expected = {task: after(rows, name, metric) for task, rows in samples.items()}
        assert answers[name] == expected
        assert [len(right) for right in expected.values()] == [12, 5]
    assert answers["least"] != answers["likeliest"]
    assert both.answers(TaskSpec(name="turned", metric=metric), own_tasks) == answers["least"]


def test_a_sole_filter_of_a_task_counts(both: Both, own_tasks: Path) -> None:
    result = both.theirs("turned_sole", own_tasks, None)
    for metric in ("acc", "acc,least"):
        spec = TaskSpec(name="turned_sole", metric=metric)
        score, _, likelihoods = both.mine(spec, own_tasks, None)
        assert score == pytest.approx(result["results"]["turned_sole"]["acc,least"], abs=1e-12)
        assert list(both.answers(spec, own_tasks).values()) == [
            after(result["samples"]["turned_sole"], "least", "acc")
        ]
    np.testing.assert_allclose(likelihoods, per_request(result["samples"]), rtol=0, atol=1e-3)


def test_values_between_right_and_wrong_count_as_in_lm_eval(both: Both, own_tasks: Path) -> None:
    result = both.theirs("graded", own_tasks, None)
    spec = TaskSpec(name="graded")
    score, _, _ = both.mine(spec, own_tasks, None)
    assert score == pytest.approx(result["results"]["graded"]["acc,none"], abs=1e-5)
    tasks = both.tasks(spec, own_tasks, None)
    (values,) = Engine(both.stack, tasks, CPU).answers([LAYERS], in_order(tasks))
    assert isinstance(values, np.ndarray)
    rows = sorted(result["samples"]["graded"], key=lambda row: int(row["doc_id"]))
    np.testing.assert_allclose(values, [row["acc"] for row in rows], rtol=0, atol=2e-5)
    assert 0.0 < values.min() < values.max() < 1.0
    np.testing.assert_array_equal(decode_answers(encode_answers(values), len(values)), values)
    found = IsolatedCheckpoint(both.exported, "cpu", "float32").evaluate(
        [spec], str(own_tasks), None, 4
    )
    recorded = RecordedAnswers(tasks.subjects, {"graded": dict(enumerate(values.tolist()))})
    verified = compare(found, recorded, exact=True)
    assert verified.faults == []
    assert verified.common == len(values)
    assert verified.score == pytest.approx(score, abs=1e-5)
    moved = RecordedAnswers(tasks.subjects, {"graded": dict(enumerate((values - 1e-3).tolist()))})
    assert len(compare(found, moved, exact=True).differing) == len(values)
    assert compare(found, moved, exact=False).faults == []


def test_a_group_weighs_its_tasks_for_each_filter_as_lm_eval_does(
    both: Both, own_tasks: Path
) -> None:
    result = both.theirs("turned", own_tasks, None)
    for name, by_size in (("least", False), ("likeliest", True)):
        score, by_task, _ = both.mine(
            TaskSpec(name="turned", metric=f"acc,{name}"), own_tasks, None
        )
        assert score == pytest.approx(result["groups"]["turned"][f"acc,{name}"], abs=1e-12)
        plain = float(np.mean(list(by_task.values())))
        assert (score == pytest.approx(plain)) is not by_size


def test_lm_eval_in_a_process_of_its_own_uses_the_filter_of_the_study(
    both: Both, own_tasks: Path
) -> None:
    specs = [
        TaskSpec(name="turned", metric="acc_norm,likeliest"),
        TaskSpec(name="turned_sole"),
    ]
    isolated = IsolatedCheckpoint(both.exported, "cpu", "float32")
    found = isolated.evaluate(specs, str(own_tasks), None, 4)
    expected = {
        task: right for spec in specs for task, right in both.answers(spec, own_tasks).items()
    }
    assert {task: [right[d] for d in sorted(right)] for task, right in found.items()} == expected


ELSEWHERE = """
task: elsewhere
dataset_path: json
dataset_kwargs: {{data_files: {{test: rows/elsewhere.jsonl}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: !function own.question
doc_to_target: answer
doc_to_choice: "{{{{choices}}}}"
process_results: !function own.right
metric_list:
"""
OWN = """
from words_of_my_own import ask

def question(doc):
    return ask(doc["question"])

def right(doc, results):
    likelihoods = [result[0] for result in results]
    won = likelihoods.index(max(likelihoods)) == doc["answer"]
    return {"acc": float(won)} if doc["answer"] else {}
"""


def test_lm_eval_in_a_process_of_its_own_finds_data_and_modules_where_eval_does(
    both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tasks", "modules", "rows"):
        (tmp_path / name).mkdir()
    docs = [
        {
            "question": f"One\u2028two\x85three\x0c {i}?",
            "choices": ["a", "b\u2029c"],
            "answer": i % 2,
        }
        for i in range(6)
    ]
    rows = "".join(json.dumps(doc, ensure_ascii=False) + "\n" for doc in docs)
    (tmp_path / "rows" / "elsewhere.jsonl").write_text(rows, encoding="utf-8")
    (tmp_path / "modules" / "words_of_my_own.py").write_text("def ask(text):\n    return text\n")
    tasks = tmp_path / "tasks"
    (tasks / "own.py").write_text(OWN)
    text = ELSEWHERE.format(cache=tmp_path / "cache") + METRIC.format("acc")
    (tasks / "elsewhere.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("modules")
    spec = TaskSpec(name="elsewhere")
    found = IsolatedCheckpoint(both.exported, "cpu", "float32").evaluate(
        [spec], str(tasks), None, 4
    )
    assert sorted(found["elsewhere"]) == [1, 3, 5]
    assert [*found["elsewhere"].values()] == both.answers(spec, tasks)["elsewhere"]


def test_naming_the_filter_that_every_task_has_keeps_the_short_way(both: Both) -> None:
    plain, named = (
        both.tasks(TaskSpec(name="demo_capitals", metric=metric), DEMO_TASKS, 3)
        for metric in ("acc", "acc,none")
    )
    for ours, theirs in zip(in_order(plain), in_order(named), strict=True):
        won = named.winners(theirs)
        assert won is not None
        assert won.sum() == 1
        np.testing.assert_array_equal(won, plain.winners(ours))


def model_inputs(lm: Any, requests: list[Any], monkeypatch: pytest.MonkeyPatch) -> set[Any]:
    """The sequences that lm-eval puts into the model, one a batch, so without padding."""
    seen: set[tuple[int, ...]] = set()
    call = lm._model_call

    def record(inputs: torch.Tensor, **how: Any) -> Any:
        assert inputs.shape[0] == 1
        seen.add(tuple(inputs[0].tolist()))
        return call(inputs, **how)

    monkeypatch.setattr(lm, "_model_call", record)
    monkeypatch.setattr(lm, "batch_size_per_gpu", 1)
    lm.loglikelihood(requests, disable_tqdm=True)
    return seen


@pytest.mark.parametrize("length", [512, 40, 30])
@pytest.mark.parametrize("name", ["demo_recall", "words"])
def test_tokens_are_hflms_own_also_where_the_model_is_too_short(
    both: Both, own_tasks: Path, monkeypatch: pytest.MonkeyPatch, name: str, length: int
) -> None:
    folder = own_tasks if name == "words" else DEMO_TASKS
    monkeypatch.setattr(both.lm, "_max_length", length)
    tasks = both.tasks(TaskSpec(name=name), folder, 4)
    questions = in_order(tasks)
    instances = [i for d in range(4) for i in tasks._instances[0, d]]
    recorded: list[tuple[list[int], list[int]]] = []

    def keep(requests: Any, **_: Any) -> list[Any]:
        recorded.extend((context, target) for _, context, target in requests)
        return []

    with monkeypatch.context() as patched:
        patched.setattr(both.lm, "_loglikelihood_tokens", keep)
        both.lm.loglikelihood(instances, disable_tqdm=True)
    mine = [request for question in questions for request in question.requests]
    assert [list(request.targets) for request in mine] == [target for _, target in recorded]
    for request, (context, target) in zip(mine, recorded, strict=True):
        whole = (*context, *target)[:-1]
        assert whole[-len(request.tokens) :] == request.tokens
        assert len(request.tokens) == min(length, len(whole))
    inputs = model_inputs(both.lm, instances, monkeypatch)
    assert inputs == {request.tokens for request in mine}
    assert any(len(tokens) == length for tokens in inputs) is (length < 512)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "'last_word', document 0: an answer without text"),
        (60, "'last_word', document 0: an answer of 180 tokens, and the model scores 1 to 50"),
    ],
)
def test_a_continuation_that_no_model_of_this_length_can_score_is_one_line(
    both: Both, own_tasks: Path, tmp_path: Path, count: int, words: str
) -> None:
    for file in ("data.py", "last_word.yaml"):
        (tmp_path / file).write_text((own_tasks / file).read_text())
    docs = [{"text": "Number 1 is", "word": "road " * count}]
    (tmp_path / "last_word.json").write_text(json.dumps({"test": docs}))
    text = (tmp_path / "last_word.yaml").read_text().replace("' ' + word", "word")
    (tmp_path / "last_word.yaml").write_text(text)
    tasks = both.tasks(TaskSpec(name="last_word"), tmp_path, None)
    tasks.prepare(both.lm.tokenizer, SimpleNamespace(max_position_embeddings=50))
    with pytest.raises(TaskError, match=words) as caught:
        in_order(tasks)
    assert "\n" not in str(caught.value)


def test_scores_agree_where_prompts_are_truncated(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(both.lm, "_max_length", 30)
    result = both.theirs("demo_two_step", DEMO_TASKS, 4)
    score, _, likelihoods = both.mine(TaskSpec(name="demo_two_step"), DEMO_TASKS, 4)
    assert score == result["results"]["demo_two_step"]["acc,none"]
    np.testing.assert_allclose(likelihoods, per_request(result["samples"]), rtol=0, atol=1e-4)


def test_the_exported_checkpoint_has_the_length_that_the_evaluator_uses(
    both: Both, tiny_study: Path
) -> None:
    from optlayers.config.study import load_study
    from optlayers.evaluation.evaluator import ModelEvaluator

    evaluator = ModelEvaluator(load_study(str(tiny_study)), CPU, torch.float32, limit=1)
    assert evaluator.tasks._encoder.max_length == both.lm.max_length == 512


def test_documents_asked_for_in_any_order_get_lm_evals_prompts(both: Both, own_tasks: Path) -> None:
    """Examples are drawn document by document, so asking for some must not change the draws."""
    whole = both.tasks(TaskSpec(name="words"), own_tasks, None)
    some = both.tasks(TaskSpec(name="words"), own_tasks, None)
    picked = [7, 2, 11]
    expected = in_order(whole)
    assert some.questions([0] * 3, picked) == [expected[d] for d in picked]
    assert some.questions([0] * 2, [0, 7]) == [expected[0], expected[7]]
