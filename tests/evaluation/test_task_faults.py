from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from optlayers.errors import TaskError
from optlayers.evaluation.tasks import TaskSet
from optlayers.study import TaskSpec

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


def test_a_task_that_writes_text_is_refused(folder: str) -> None:
    line = fault(folder, name="writes")
    assert "'writes'" in line
    assert "generate_until" in line
    assert "multiple_choice" in line


def test_a_missing_metric_names_those_there_are(folder: str) -> None:
    line = fault(folder, name="last_word", metric="acc_norm")
    assert "'acc_norm'" in line
    assert "it has acc" in line


def test_a_folder_that_is_not_there_is_named() -> None:
    assert "nowhere" in fault("nowhere", name="last_word")


def test_a_task_that_does_not_load_says_why(folder: str) -> None:
    assert "'broken'" in fault(folder, name="broken")


def test_a_loglikelihood_task_is_taken(folder: str) -> None:
    tasks = TaskSet([TaskSpec(name="last_word")], folder)
    assert [(s.name, s.size, s.weight) for s in tasks.subjects] == [("last_word", 3, 1.0)]


def test_a_limit_takes_the_first_documents(folder: str) -> None:
    assert TaskSet([TaskSpec(name="last_word")], folder, limit=2).subjects[0].size == 2
