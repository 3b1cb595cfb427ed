"""A task that cannot be scored is refused alike by every command."""

from __future__ import annotations

from pathlib import Path

import pytest

from optlayers.checkpoints.card import documents
from optlayers.checkpoints.parents import open_parents
from optlayers.config.study import load_study
from optlayers.layerset import LayerSet
from tests.helpers.commands import Commands
from tests.helpers.tiny import export

DATA = """
from datasets import Dataset

def load(**_):
    docs = [{"q": f"Item {i}?", "choices": ["a", "b"], "label": i % 2} for i in range(6)]
    docs[4]["q"] = " "
    return {"test": Dataset.from_list(docs)}
"""
TASK = """
task: odd
custom_dataset: !function data.load
test_split: test
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_target: label
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def odd_study(tiny_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study over the tiny pair and a task of which one document has a blank prompt."""
    folder: Path = tmp_path_factory.mktemp("odd")
    (folder / "tasks").mkdir()
    (folder / "tasks" / "data.py").write_text(DATA)
    (folder / "tasks" / "odd.yaml").write_text(TASK)
    study = folder / "odd.yaml"
    study.write_text(
        f"name: odd\nbase: {{model: {tiny_pair}/base}}\ndonor: {{model: {tiny_pair}/donor}}\n"
        "layers: {min: 1, max: 2}\ntasks: [{name: odd}]\ntask_path: tasks\n"
        "questions: {fast: 2, full: 6}\nexplore: {population: 4, generations: 1}\n"
    )
    definition = load_study(str(study))
    parents = open_parents(definition)
    texts = documents(definition, parents, LayerSet.of(1), None)
    export(parents, LayerSet.of(1), folder / "hybrid", texts)
    return study


@pytest.mark.parametrize(
    "command",
    [
        ["eval", "--layers", "1", "--device", "cpu"],
        ["worker", "--device", "cpu"],
        ["search", "--devices", "cpu", "--workers", "1"],
        ["verify", "hybrid", "--device", "cpu"],
    ],
    ids=lambda command: command[0],
)
def test_a_document_that_cannot_be_scored_ends_every_command_alike(
    odd_study: Path, commands: Commands, command: list[str]
) -> None:
    words = [*command, "--study", str(odd_study)]
    code, out, err = commands.run(odd_study.parent, words)
    assert code == 2, err + out
    lines = [line for line in err.split("\n") if line.startswith("optlayers: ")]
    assert len(lines) == 1, err
    assert lines[0].startswith("optlayers: task 'odd', document 4: its prompt is blank, and the")
    assert "Traceback" not in err


def test_a_limit_before_the_document_leaves_it_out(odd_study: Path, commands: Commands) -> None:
    words = ["eval", "--layers", "1", "--device", "cpu", "--study", str(odd_study), "--limit", "4"]
    code, out, err = commands.run(odd_study.parent, words)
    assert code == 0, err
    assert "on 4 questions" in out
