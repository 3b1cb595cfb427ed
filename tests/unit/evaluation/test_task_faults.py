from __future__ import annotations

from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
from transformers import AutoTokenizer

from optlayers.config.fields import TaskSpec
from optlayers.errors import TaskError
from optlayers.evaluation.tasks import TaskSet

DATA = """
from datasets import Dataset
def load(**_):
    return {"test": Dataset.from_list([{"q": "one", "a": "two"}] * 3)}
"""
GENERATE = """
task: writes
custom_dataset: !function data.load
test_split: test
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: "{{a}}"
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
LAST_WORD = """
task: last_word
custom_dataset: !function data.load
test_split: test
output_type: loglikelihood
doc_to_text: "{{q}}"
doc_to_target: " {{a}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "data.py").write_text(DATA)
    (tmp_path / "writes.yaml").write_text(GENERATE)
    (tmp_path / "last_word.yaml").write_text(LAST_WORD)
    (tmp_path / "broken.yaml").write_text(
        LAST_WORD.replace("last_word", "broken") + "test_split: no\n"
    )
    return str(tmp_path)


def fault(folder: str | None, **spec: Any) -> str:
    with pytest.raises(TaskError) as caught:
        TaskSet([TaskSpec(**spec)], folder)
    [line] = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ("aggregation: median, higher_is_better: true", "aggregates acc by 'median'"),
        ("aggregation: !function data.best, higher_is_better: true", "aggregates acc by 'best'"),
        ("aggregation: mean, higher_is_better: false", "for acc lower is better"),
    ],
)
def test_a_metric_that_is_no_mean_or_should_be_low_is_refused(
    folder: str, wish: str, words: str
) -> None:
    (Path(folder) / "data.py").write_text(DATA + "def best(items):\n    return max(items)\n")
    text = LAST_WORD.replace("aggregation: mean, higher_is_better: true", wish)
    (Path(folder) / "other.yaml").write_text(text.replace("task: last_word", "task: other"))
    assert words in fault(folder, name="other")
    TaskSet([TaskSpec(name="other", metric="logprob")], folder)


def test_a_task_that_writes_text_is_refused(folder: str) -> None:
    line = fault(folder, name="writes")
    assert "'writes'" in line
    assert "generate_until" in line
    assert "multiple_choice" in line


def test_a_missing_metric_names_those_there_are(folder: str) -> None:
    line = fault(folder, name="last_word", metric="acc_norm")
    assert "'acc_norm'" in line
    assert "it has acc" in line


def test_a_missing_filter_names_those_there_are(folder: str) -> None:
    line = fault(folder, name="last_word", metric="acc,strict-match")
    assert "'last_word' has no filter 'strict-match'; it has 'none'" in line
    filters = "filter_list: [{name: a, filter: [{function: take_first}]}, {name: b, filter: []}]\n"
    (Path(folder) / "two.yaml").write_text(LAST_WORD.replace("last_word", "two") + filters)
    line = fault(folder, name="two", metric="acc,none")
    assert "'two' has no filter 'none'; it has 'a', 'b'" in line
    assert "'two' has no metric 'f1'" in fault(folder, name="two", metric="f1,a")
    TaskSet([TaskSpec(name="two", metric="acc,b")], folder)
    none = LAST_WORD.replace("last_word", "none") + "filter_list: []\n"
    (Path(folder) / "none.yaml").write_text(none)
    assert "'none': its filter_list is empty" in fault(folder, name="none")


def test_a_filter_that_cannot_take_likelihoods_is_named(folder: str, tiny_pair: Path) -> None:
    filters = "filter_list: [{name: voted, filter: [{function: take_first_k, k: 2}]}]\n"
    (Path(folder) / "voted.yaml").write_text(LAST_WORD.replace("last_word", "voted") + filters)
    tasks = TaskSet([TaskSpec(name="voted")], folder)
    tasks.prepare(AutoTokenizer.from_pretrained(tiny_pair / "donor"), None)
    [question] = tasks.questions([0], [1])
    with pytest.raises(TaskError, match=r"'acc' after filter 'voted' .*at least 2") as caught:
        tasks.value(question, [(-1.5, True)])
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_named() -> None:
    assert "nowhere" in fault("nowhere", name="last_word")


def test_a_task_that_does_not_load_says_why(folder: str) -> None:
    assert "'broken'" in fault(folder, name="broken")


def test_a_loglikelihood_task_is_taken(folder: str) -> None:
    tasks = TaskSet([TaskSpec(name="last_word")], folder)
    assert [(s.name, s.size, s.weight) for s in tasks.subjects] == [("last_word", 3, 1.0)]


def test_a_limit_takes_the_first_documents(folder: str) -> None:
    assert TaskSet([TaskSpec(name="last_word")], folder, limit=2).subjects[0].size == 2


def test_an_unknown_name_tells_near_ones(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # lm-eval's own index takes many seconds to build and changes nothing here.
    def small(include_path: str, **_: Any) -> Any:
        return lm_eval.tasks.TaskManager(include_path=include_path, include_defaults=False)

    monkeypatch.setattr("optlayers.evaluation.tasks.TaskManager", small)
    line = fault(folder, name="word")
    assert "'word' is not known to lm-eval" in line
    assert "near: last_word" in line
    assert "lm_eval ls tasks" in line


def test_a_task_without_documents_is_refused(folder: str) -> None:
    (Path(folder) / "none.py").write_text(DATA.replace("* 3", "* 0"))
    empty = LAST_WORD.replace("last_word", "empty").replace("data.load", "none.load")
    (Path(folder) / "empty.yaml").write_text(empty)
    assert "'empty' could not be loaded" in fault(folder, name="empty")


def test_prompts_that_cannot_be_made_name_the_task(folder: str, tiny_pair: Path) -> None:
    tasks = TaskSet([TaskSpec(name="last_word", num_fewshot=50)], folder)
    tasks.prepare(AutoTokenizer.from_pretrained(tiny_pair / "donor"), None)
    with pytest.raises(TaskError, match=r"'last_word'.*: its prompt could not be made") as caught:
        tasks.questions([0], [1])
    assert "num_fewshot" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_task_named_beside_its_group_is_refused(folder: str) -> None:
    (Path(folder) / "group.yaml").write_text("group: both\ntask: [last_word]\n")
    with pytest.raises(TaskError, match="'last_word' occurs twice in the study"):
        TaskSet([TaskSpec(name="both"), TaskSpec(name="last_word")], folder)


def test_a_metric_below_0_or_above_1_is_refused(folder: str, tiny_pair: Path) -> None:
    other = LAST_WORD.replace("last_word", "surprise").replace("acc", "perplexity")
    (Path(folder) / "surprise.yaml").write_text(other)
    spec = TaskSpec(name="surprise").model_copy(update={"metric": "perplexity"})
    tasks = TaskSet([spec], folder)
    tasks.prepare(AutoTokenizer.from_pretrained(tiny_pair / "donor"), None)
    [question] = tasks.questions([0], [1])
    with pytest.raises(TaskError, match=r"'perplexity' is not a number from 0 to 1 .*choose acc"):
        tasks.value(question, [(-1.5, True)])


def test_the_weights_of_a_study_are_shared_out_to_the_subjects(folder: str) -> None:
    (Path(folder) / "again.yaml").write_text(LAST_WORD.replace("last_word", "again"))
    (Path(folder) / "pair.yaml").write_text(
        "group: pair\ntask: [last_word, again]\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: false}]\n"
    )
    (Path(folder) / "third.yaml").write_text(LAST_WORD.replace("last_word", "third"))
    specs = [TaskSpec(name="pair", weight=3.0), TaskSpec(name="third", weight=1.0)]
    tasks = TaskSet(specs, folder)
    assert {s.name: s.weight for s in tasks.subjects} == {
        "last_word": 1.5,
        "again": 1.5,
        "third": 1.0,
    }
