"""Tasks as people write them: scored as lm-eval scores them, or refused in one line."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval.tasks
import numpy as np
import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from transformers import AutoConfig, AutoTokenizer

from optlayers.cli.exporter import Exporter
from optlayers.config.fields import Questions, TaskSpec
from optlayers.config.study import parse_study
from optlayers.errors import ModelError, TaskError
from optlayers.evaluation.engine import Engine
from optlayers.evaluation.questions import order_questions
from optlayers.evaluation.tasks import TaskSet
from optlayers.evaluation.verify import RecordedAnswers
from optlayers.inference.stack import LayerStack
from optlayers.layerset import LayerSet
from optlayers.trials.answers import encode_answers
from optlayers.trials.statistics import StratifiedScore
from tests.helpers.finished import Finished
from tests.helpers.tiny import LAYERS, parents_in

CPU = torch.device("cpu")
DONOR = LayerSet.of(*range(LAYERS))

CODE = """
import random
from datasets import Dataset
from lm_eval.api.task import ConfigurableTask, MultipleChoiceTask

WORDS = ["red", "old stone", "a river of hills", "quiet"]

def doc(i):
    return {"id": i, "q": f"Item {i}: what is it?", "choices": WORDS, "label": i * 7 % 4}

def load(count=8, **_):
    return {"test": Dataset.from_list([doc(i) for i in range(count)])}

def changed(i, **values):
    def of(**_):
        docs = [doc(i) for i in range(8)]
        docs[i] |= values
        return {"test": Dataset.from_list(docs)}
    return of

blank = changed(3, q="  ")
nothing = changed(3, choices=[])
no_text = changed(3, choices=["red", "", "blue", "old"])
no_label = changed(3, label=9)

def unlabelled(**_):
    return {"test": Dataset.from_list([{**doc(i), "label": -1} for i in range(8)])}

def shuffled(docs):
    order = list(range(len(docs)))
    random.shuffle(order)
    return docs.select(order)

def steady(docs):
    return docs.shuffle(seed=1)

def best(results):
    likelihoods = [result[0] for result in results]
    return likelihoods.index(max(likelihoods))

def of_even(doc, results):
    return {"acc": float(best(results) == doc["label"])} if doc["id"] % 2 else {}

def of_two_kinds(doc, results):
    right = float(best(results) == doc["label"])
    return {"acc": right} if doc["id"] < 3 else {"acc_odd": right}

def of_inverse(doc, results):
    won = best(results)
    return {"acc": float(1 / (results[won][0] + 0.5) < 0 and won == doc["label"])}

def of_sure(doc, results):
    return {"acc": 1.0} if results[0][0] > results[1][0] else {}


class Classic(MultipleChoiceTask):
    VERSION = 0

    def __init__(self, config=None):
        super().__init__(config=config)

    def download(self, *_, **__):
        self.docs = [{**doc(i), "gold": i * 7 % 4} for i in range(8)]

    def has_training_docs(self):
        return False

    has_validation_docs = has_training_docs

    def has_test_docs(self):
        return True

    def test_docs(self):
        return self.docs

    def doc_to_text(self, doc):
        return doc["q"]

    def construct_requests(self, doc, ctx, apply_chat_template=False, chat_template=None, **how):
        return super().construct_requests(doc, ctx, **how)


class Least(Classic):
    def process_results(self, doc, results):
        return super().process_results(doc, [(-x, greedy) for x, greedy in results])


class Turned(ConfigurableTask):
    def __init__(self, config=None):
        super().__init__(config={k: v for k, v in config.items() if k != "class"})

    def process_results(self, doc, results):
        return super().process_results(doc, [(-x, greedy) for x, greedy in results])
"""
TASK = """
task: {name}
custom_dataset: !function code.{load}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_target: label
doc_to_choice: "{{{{choices}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
{more}
"""

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a task file, and gives its name."""
    (tmp_path / "code.py").write_text(CODE)

    def put(name: str, load: str = "load", more: str = "", text: str = TASK) -> str:
        (tmp_path / f"{name}.yaml").write_text(text.format(name=name, load=load, more=more))
        return name

    return put


@pytest.fixture(scope="module")
def lm(tiny_pair: Path) -> Any:
    return HFLM(pretrained=str(tiny_pair / "donor"), dtype="float32", device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def stack(tiny_pair: Path) -> LayerStack:
    return LayerStack.load(parents_in(tiny_pair), CPU, torch.float32)


@pytest.fixture
def small_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of lm-eval's own tasks, whose index takes many seconds to build."""
    own = tmp_path.parent / f"{tmp_path.name}-builtin"
    own.mkdir()
    (own / "code.py").write_text(CODE)
    text = TASK.format(name="built_in", load="load", more="num_fewshot: 0")
    (own / "built_in.yaml").write_text(text)

    def manager(include_path: str | None, include_defaults: bool = True) -> Any:
        paths = [str(own)] if include_defaults else []
        return lm_eval.tasks.TaskManager(
            include_path=[*paths, *([include_path] if include_path else [])],
            include_defaults=False,
        )

    monkeypatch.setattr("optlayers.evaluation.tasks.TaskManager", manager)
    return own


def prepared(pair: Path, folder: Path, spec: TaskSpec, limit: int | None = None) -> TaskSet:
    tasks = TaskSet([spec], str(folder), limit)
    donor = pair / "donor"
    tasks.prepare(AutoTokenizer.from_pretrained(donor), AutoConfig.from_pretrained(donor))
    return tasks


def asked(tasks: TaskSet) -> list[Any]:
    """All questions, subject by subject."""
    pairs = [(s, int(d)) for s, subject in enumerate(tasks.subjects) for d in subject.numbers]
    return tasks.questions([s for s, _ in pairs], [d for _, d in pairs])


def score(stack: LayerStack, tasks: TaskSet) -> float:
    """The score of the whole donor."""
    questions = asked(tasks)
    (answers,) = Engine(stack, tasks, CPU).answers([DONOR], questions)
    assert isinstance(answers, np.ndarray)
    strata = np.array([question.subject for question in questions])
    weights = np.array([subject.weight for subject in tasks.subjects])
    return StratifiedScore(strata=strata, weights=weights).score(answers)


def theirs(lm: Any, folder: Path | list[str], name: str, key: str = "acc,none") -> float:
    """The score that lm-eval gives the donor."""
    paths = [str(folder)] if isinstance(folder, Path) else folder
    manager = lm_eval.tasks.TaskManager(include_path=paths, include_defaults=False)
    result: Any = simple_evaluate(
        lm, tasks=[name], bootstrap_iters=0, task_manager=manager, log_samples=False
    )
    return float({**result["results"], **result.get("groups", {})}[name][key])


def refusal(pair: Path, folder: Path, spec: TaskSpec) -> str:
    with pytest.raises(TaskError) as caught:
        asked(prepared(pair, folder, spec))
    [line] = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize("metric", ["acc", "logprob"])
@pytest.mark.parametrize(
    ("load", "more", "words"),
    [
        ("blank", "", "document 3: its prompt is blank, and the tokenizer adds no BOS token"),
        ("nothing", "", "document 3: it has no choices"),
        ("no_text", 'target_delimiter: ""', "document 3: an answer without text"),
    ],
)
def test_a_document_that_lm_eval_cannot_score_is_named(
    lm: Any, write: Write, tiny_pair: Path, tmp_path: Path,
    metric: str, load: str, more: str, words: str,
) -> None:  # fmt: skip
    name = write("odd", load, more)
    line = refusal(tiny_pair, tmp_path, TaskSpec(name=name, metric=metric))
    assert line.startswith(f"task 'odd', {words}")
    with pytest.raises((AssertionError, ValueError, IndexError)):
        theirs(lm, tmp_path, name)


def test_an_empty_prompt_with_an_answer_without_text_is_named(
    write: Write, tiny_pair: Path, tmp_path: Path
) -> None:
    more = 'target_delimiter: ""\ndoc_to_text: ""'
    line = refusal(tiny_pair, tmp_path, TaskSpec(name=write("odd", "no_text", more)))
    assert line.startswith("task 'odd', document 3: an answer without text")


def test_a_document_whose_prompt_cannot_be_made_is_named(
    write: Write, tiny_pair: Path, tmp_path: Path
) -> None:
    more = 'doc_to_text: "{{ 1 // (id - 5) }}"'
    line = refusal(tiny_pair, tmp_path, TaskSpec(name=write("odd", more=more)))
    assert line.startswith("task 'odd', document 5: its prompt could not be made (ZeroDivision")


def test_a_label_that_is_none_of_the_choices_counts_as_wrong_as_in_lm_eval(
    lm: Any, stack: LayerStack, write: Write, tiny_pair: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    name = write("odd", "no_label")
    with caplog.at_level(logging.WARNING, "optlayers"):
        found = score(stack, prepared(tiny_pair, tmp_path, TaskSpec(name=name)))
    assert found == theirs(lm, tmp_path, name)
    assert caplog.messages == [
        "task 'odd', document 3: none of its choices is right, so it counts as wrong"
    ]
    line = refusal(tiny_pair, tmp_path, TaskSpec(name=name, metric="logprob"))
    assert line.startswith("task 'odd', document 3: none of its choices is right, and metric")
    assert "code or filters" not in line


def test_a_split_without_labels_is_told_of_once(
    lm: Any, stack: LayerStack, write: Write, tiny_pair: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    name = write("odd", "unlabelled")
    with caplog.at_level(logging.WARNING, "optlayers"):
        found = score(stack, prepared(tiny_pair, tmp_path, TaskSpec(name=name)))
    assert found == theirs(lm, tmp_path, name) == 0.0
    assert len(caplog.messages) == 1


CLASS = "task: {name}\nclass: !function code.{load}\n"


@pytest.mark.parametrize(("kind", "text"), [("Classic", CLASS), ("Least", CLASS), ("Turned", TASK)])
def test_a_task_that_is_a_class_scores_as_in_lm_eval(
    lm: Any, stack: LayerStack, write: Write, tiny_pair: Path, tmp_path: Path, kind: str, text: str
) -> None:
    more = f"class: !function code.{kind}"
    name = write("mine", kind if text is CLASS else "load", more, text)
    tasks = prepared(tiny_pair, tmp_path, TaskSpec(name=name))
    assert score(stack, tasks) == theirs(lm, tmp_path, name)
    assert (tasks.winners(asked(tasks)[0]) is None) is (kind != "Classic")


def test_the_log_probability_is_that_of_the_right_choice_of_a_class_too(
    write: Write, tiny_pair: Path, tmp_path: Path
) -> None:
    spec = TaskSpec(name=write("mine", "Classic", text=CLASS), metric="logprob")
    tasks = prepared(tiny_pair, tmp_path, spec)
    for question in asked(tasks):
        label = question.document * 7 % 4
        nats = [(-10.0 * (i + 1), False) for i in range(4)]
        tokens = len(question.requests[label].targets)
        expected = nats[label][0] / tokens
        assert tasks._log_probability(question, nats) == pytest.approx(expected)
    line = refusal(
        tiny_pair, tmp_path, TaskSpec(name=write("other", "Least", text=CLASS), metric="logprob")
    )
    assert "needs to know the right answer" in line


GROUP = """
group: {name}
task: [{more}]
aggregate_metric_list: [{{metric: acc, weight_by_size: {load}}}]
"""


@pytest.mark.parametrize("by_size", ["true", "false"])
@pytest.mark.parametrize(
    "members",
    [
        "one, built_in",
        "one, {task: built_in, dataset_kwargs: {count: 5}}",
        "one, {group: inner, task: [built_in]}",
        "{group: a, task: [one, two]}, {group: b, task: [two, built_in]}",
    ],
)
def test_a_group_of_ones_own_scores_as_in_lm_eval(
    lm: Any, stack: LayerStack, write: Write, tiny_pair: Path, tmp_path: Path, small_index: Path,
    members: str, by_size: str,
) -> None:  # fmt: skip
    write("one", more="dataset_kwargs: {count: 3}")
    write("two", more="dataset_kwargs: {count: 4}")
    name = write("mixed", by_size, members, GROUP)
    found = score(stack, prepared(tiny_pair, tmp_path, TaskSpec(name=name)))
    assert found == pytest.approx(theirs(lm, [str(small_index), str(tmp_path)], name), abs=1e-12)


def test_a_group_with_a_member_that_nobody_knows_names_it(
    write: Write, tiny_pair: Path, tmp_path: Path, small_index: Path
) -> None:
    name = write("mixed", "true", "no_such_task", GROUP)
    line = refusal(tiny_pair, tmp_path, TaskSpec(name=name))
    assert "'mixed' could not be loaded" in line
    assert "lm-eval knows no task no_such_task" in line


def test_a_group_whose_tasks_have_other_filters_needs_a_named_one(
    lm: Any, stack: LayerStack, write: Write, tiny_pair: Path, tmp_path: Path
) -> None:
    first = "{name: a, filter: [{function: take_first}]}"
    second = "{name: b, filter: [{function: take_first_k, k: 2}, {function: take_first}]}"
    write("one", more=f"repeats: 2\nfilter_list: [{first}, {second}]")
    write("two", more=f"repeats: 2\nfilter_list: [{second}, {first}]")
    group = write("both", "true", "one, two", GROUP)
    line = refusal(tiny_pair, tmp_path, TaskSpec(name=group))
    assert "first filters of its tasks differ (a, b), and lm-eval scores a group by one" in line
    for name in "ab":
        spec = TaskSpec(name=group, metric=f"acc,{name}")
        found = score(stack, prepared(tiny_pair, tmp_path, spec))
        expected = theirs(lm, tmp_path, group, f"acc,{name}")
        assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("more", "words"),
    [("doc_to_image: q", "has images or sound"), ("unsafe_code: true", "has code marked unsafe")],
)
def test_what_lm_eval_runs_only_when_asked_is_refused(
    write: Write, tiny_pair: Path, tmp_path: Path, more: str, words: str
) -> None:
    line = refusal(tiny_pair, tmp_path, TaskSpec(name=write("odd", more=more)))
    assert line.startswith(f"task 'odd' {words}")


def test_documents_without_a_value_are_left_out_as_in_lm_eval(
    lm: Any, stack: LayerStack, write: Write, tiny_pair: Path, tmp_path: Path
) -> None:
    name = write("half", more="process_results: !function code.of_even")
    tasks = prepared(tiny_pair, tmp_path, TaskSpec(name=name))
    assert score(stack, tasks) == theirs(lm, tmp_path, name)
    [subject] = tasks.subjects
    assert subject.documents == (1, 3, 5, 7)
    order = order_questions(tasks.subjects, Questions(fast=1, full=3, holdout=0.25))
    assert sorted([*order.document, *order.held_document]) == [1, 3, 5, 7]
    [few] = prepared(tiny_pair, tmp_path, TaskSpec(name=name), limit=4).subjects
    assert few.documents == (1, 3)
    write("whole")
    group = write("both", "true", "half, whole", GROUP)
    found = score(stack, prepared(tiny_pair, tmp_path, TaskSpec(name=group)))
    assert found == pytest.approx(theirs(lm, tmp_path, group), abs=1e-12)


def test_a_task_counts_by_its_largest_metric_as_in_lm_eval(
    lm: Any, stack: LayerStack, write: Write, tiny_pair: Path, tmp_path: Path
) -> None:
    write("half", more="process_results: !function code.of_two_kinds")
    write("whole")
    group = write("both", "true", "half, whole", GROUP)
    tasks = prepared(tiny_pair, tmp_path, TaskSpec(name=group))
    assert score(stack, tasks) == pytest.approx(theirs(lm, tmp_path, group), abs=1e-12)
    assert [round(subject.weight * 13) for subject in tasks.subjects] == [5, 8]


def test_code_that_fails_for_made_up_answers_scores_as_in_lm_eval(
    lm: Any, stack: LayerStack, write: Write, tiny_pair: Path, tmp_path: Path
) -> None:
    name = write("inverse", more="process_results: !function code.of_inverse")
    tasks = prepared(tiny_pair, tmp_path, TaskSpec(name=name))
    assert score(stack, tasks) == theirs(lm, tmp_path, name)


def test_a_metric_that_only_some_answers_have_is_refused(
    write: Write, tiny_pair: Path, tmp_path: Path
) -> None:
    name = write("sure", more="process_results: !function code.of_sure")
    line = refusal(tiny_pair, tmp_path, TaskSpec(name=name))
    assert line.startswith("task 'sure', document 0: whether it has a value of 'acc' depends on")


def test_documents_that_change_each_time_are_refused(
    write: Write, tiny_pair: Path, tmp_path: Path
) -> None:
    name = write("mixed", more="process_docs: !function code.shuffled")
    line = refusal(tiny_pair, tmp_path, TaskSpec(name=name))
    assert line.startswith("task 'mixed': its documents change each time they are read")
    prepared(
        tiny_pair,
        tmp_path,
        TaskSpec(name=write("same", more="process_docs: !function code.steady")),
    )


def test_a_digest_says_which_documents_a_task_has(write: Write, tmp_path: Path) -> None:
    def digest(name: str, limit: int | None = None) -> str:
        return TaskSet([TaskSpec(name=name)], str(tmp_path), limit).subjects[0].digest

    one, same = write("one"), write("same")
    turned = write("turned", more="process_docs: !function code.steady")
    fewer = write("fewer", more="dataset_kwargs: {count: 5}")
    assert digest(one) == digest(same)
    assert len({digest(one), digest(turned), digest(fewer), digest(one, 3)}) == 4


def test_verify_tells_documents_that_have_changed_since_the_export(
    write: Write, tmp_path: Path
) -> None:
    write("one")
    text = "name: s\nbase: {model: b}\ndonor: {model: d}\nlayers: {min: 1, max: 2}\n"
    text += "tasks: [{name: one}]\ntask_path: .\nquestions: {fast: 2, full: 4}\n"
    definition = parse_study(text, "s.yaml", tmp_path)
    [subject] = TaskSet.of(definition).subjects
    answers = encode_answers(np.array([True, False, True, False]))
    score = {"score": 0.5, "questions": 4, "answers": answers}
    for known in ([subject.digest], [""], None):
        found = RecordedAnswers.of({"score": {**score, "documents": known}}, definition)
        assert len(found.answers["one"]) == 4
        assert not found.faults
    write("one", more="process_docs: !function code.steady")
    with pytest.raises(ModelError, match="task 'one' has other documents now than when"):
        RecordedAnswers.of({"score": {**score, "documents": [subject.digest]}}, definition)


def test_an_export_records_which_documents_its_answers_are_to(finished: Finished) -> None:
    exporter = Exporter(finished.definition, finished.url, None, None, False)
    score = exporter.score(exporter.rows[0].record.layers)
    assert score is not None
    assert score["documents"] == finished.study.user_attrs["documents"] == [""] * 8
