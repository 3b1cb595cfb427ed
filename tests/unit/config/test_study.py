from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from optlayers.config.study import (
    STUDIES,
    StudyDefinition,
    load_study,
    parse_study,
    shipped_studies,
)
from optlayers.errors import InputError, StudyFileError
from optlayers.layerset import LayerSet

GOOD = """
name: mine
base: {model: org/base}
donor: {model: org/donor}
layers: {min: 1, max: 2}
tasks: [{name: demo}]
"""


SEVERAL = GOOD.replace(
    "donor: {model: org/donor}",
    "donors: [{name: a, model: org/one}, {name: b, model: org/two}]",
)


def parse(text: str, folder: Path = Path()) -> StudyDefinition:
    return parse_study(text, "mine.yaml", folder)


def faults(text: str) -> list[str]:
    with pytest.raises(StudyFileError) as caught:
        parse(text)
    assert caught.value.exit_code == 2
    assert str(caught.value).splitlines() == [f"mine.yaml: {f}" for f in caught.value.faults]
    return caught.value.faults


def with_field(path: str, value: object) -> str:
    """A good study file with one field, such as `tasks[0].name`, set to a value."""
    data: Any = yaml.safe_load(SEVERAL if path.startswith("donors") else GOOD)
    parts = [int(p) if p.isdigit() else p for p in re.findall(r"[^.\[\]]+", path)]
    place = data
    for part in parts[:-1]:
        place = place[part] if isinstance(part, int) else place.setdefault(part, {})
    place[parts[-1]] = value
    return yaml.safe_dump(data)


# Every field, with values that break its rule or its type.
BAD: dict[str, list[object]] = {
    "name": [None, 7, "", "two words", "a/b", ".hidden", "x" * 101, "été"],
    "base": [None, "org/base", []],
    "base.model": [None, 7, "", "  ", "a\0b", "a\nb"],
    "base.revision": [7, ""],
    "donor": [None, "org/donor"],
    "donor.model": [None, ""],
    "donor.revision": [[], " "],
    "donors": [3, [], "org/donor", [{"name": "a", "model": "m"}]],
    "donors[0].name": [None, 7, "", "a b", "a@b", "base", "x" * 31, "b-c"],
    "donors[0].model": [None, "", 3],
    "donors[0].revision": [7, ""],
    "donors[0].donor_map": [3, [], [-1], ["x"]],
    "layers": [None, 3, [1, 4]],
    "layers.min": [None, 0, -1, "one", 1.5, True],
    "layers.max": [0, "four", None, 10**30],
    "swap": [None, "attention", 3],
    "donor_map": [3, [], [-1], ["x"], [10**30]],
    "tasks": [None, "demo", [], {}],
    "tasks[0].name": [None, "", 3, "\t"],
    "tasks[0].weight": [0, -1, "much", float("inf"), float("nan"), None, 1e308],
    "tasks[0].metric": ["", None, 1],
    "tasks[0].num_fewshot": [-1, "none", 0.5, 10**30],
    "tasks[0].text": ["", 3, " "],
    "tasks[0].chunk": [1, "long", None, 10**30],
    "task_path": [3, [], "", "a\0b"],
    "tokenizer": [3, {}, "", " "],
    "trust_remote_code": ["perhaps", None, 2],
    "questions": [None, 20, []],
    "questions.fast": [0, -5, "few", 2.5],
    "questions.full": [0, "all", 10**30],
    "questions.holdout": [1.0, -0.1, "half", None, float("nan")],
    "questions.fast_precision": ["int8", None, 8],
    "questions.seed": [-1, None, "x", 2**40],
    "explore": [None, 40],
    "explore.population": [1, 0, "many", None, 10**30],
    "explore.generations": [0, None, "x", 10**30],
    "explore.patience": [0, None, [], 10**30],
    "explore.sampler": ["ga", None, 3],
    "explore.pruner": ["sha", None, []],
    "validate": [None, 20],
    "validate.top": [-1, "all", None],
    "refine": [None, 3],
    "refine.top": [-1, "x", None],
    "refine.verify": [0, None, "x"],
    "refine.rounds": [-1, None, "x"],
    "prior": [None, 0.5],
    "prior.single_layer_scores": [0.5, "x", [0.5, 2.0], [0.5, "x"], [0.5, None]],
    "prior.layer_sets": [None, 17, [17], [["x"]], [[-1]], [[10**30]]],
    "seed": [-1, "x", None, 2**40],
    "cost": ["bytes", None, 3],
}


def kinds(annotation: Any, place: str = "") -> list[tuple[type[BaseModel], str]]:
    """The parts that a field may hold, and how the path goes on to them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [(annotation, place)]
    deeper = "[0]" if get_origin(annotation) is list else place
    return [found for part in get_args(annotation) for found in kinds(part, deeper)]


def field_names(model: type[BaseModel], start: str = "") -> set[str]:
    """The path of every field of a study file, from the models themselves."""
    found = set()
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        path = start + (field.alias or name)
        found.add(path)
        for kind, start_of in kinds(field.annotation):
            found |= field_names(kind, f"{path}{start_of}.")
    return found


def test_the_table_of_bad_values_names_every_field() -> None:
    assert set(BAD) == field_names(StudyDefinition)


@pytest.mark.parametrize("field", BAD)
def test_a_bad_value_gets_one_line_with_its_field(field: str) -> None:
    for value in BAD[field]:
        found = faults(with_field(field, value))
        assert len(found) == 1, (value, found)
        assert found[0].startswith(field), (value, found)
        assert ": " in found[0]
        assert len(found[0]) < 250


@pytest.mark.parametrize(
    "line", ["colour: red", "questions: {quick: 3}", "base: {model: a, path: b}", "folder: x"]
)
def test_an_unknown_field_is_named(line: str) -> None:
    data = {**yaml.safe_load(GOOD), **yaml.safe_load(line)}
    [found] = faults(yaml.safe_dump(data))
    name = re.findall(r"colour|quick|path|folder", line)[0]
    assert name in found.partition(":")[0]
    assert "is not a field of a study file" in found


@pytest.mark.parametrize("field", ["name", "base", "donor", "layers", "tasks"])
def test_a_missing_field_is_named(field: str) -> None:
    data = yaml.safe_load(GOOD)
    del data[field]
    assert faults(yaml.safe_dump(data)) == [f"{field}: is missing; add it"]


def test_all_faults_are_told_at_once() -> None:
    text = """
name: two words
donor: {model: ""}
layers: {min: 3, max: 2}
tasks: [{name: a}, {weight: -1}]
questions: {fast: 50, full: 20}
explore: {population: 1}
"""
    found = faults(text)
    starts = [fault.partition(":")[0] for fault in found]
    assert starts == [
        "name",
        "base",
        "donor.model",
        "layers",
        "tasks[1].name",
        "tasks[1].weight",
        "questions",
        "explore.population",
    ]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("layers: {min: 3, max: 2}", ["layers", "min is 3 and max is 2"]),
        ("questions: {fast: 30, full: 20}", ["questions", "fast is 30 and full is 20"]),
        ("questions: {fast: null, full: 20}", ["questions", "fast is all and full is 20"]),
        ("tasks: [{name: a}, {name: a}]", ["tasks", "named twice"]),
        ("prior: {layer_sets: [[1, 1]]}", ["prior.layer_sets", "'1,1'", "twice"]),
        ("prior: {layer_sets: [[1, 2, 3]]}", ["prior.layer_sets", "has 3 layers", "1 to 2"]),
        ("prior: {layer_sets: [[]]}", ["prior.layer_sets", "has 0 layers", "1 to 2"]),
        ("prior: {single_layer_scores: [0.5]}", ["prior.single_layer_scores", "1 scores"]),
        (
            "prior: {single_layer_scores: [0.5, 0.5, 0.5], layer_sets: [[3]]}",
            ["prior.layer_sets", "layer 3", "3 layers, so an index is 0 to 2"],
        ),
    ],
)
def test_fields_that_do_not_fit_each_other_name_both_values(lines: str, words: list[str]) -> None:
    data = {**yaml.safe_load(GOOD), **yaml.safe_load(lines)}
    [found] = faults(yaml.safe_dump(data))
    for word in words:
        assert word in found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "found nothing"),
        ("# only a comment", "found nothing"),
        ("just text", "found str"),
        ("- a\n- b", "found list"),
        ("name: [1, 2", "not valid YAML"),
        ("name: mine\n\tbase: x", "line 2: not valid YAML"),
        ("name: !!python/object:os.system x", "not valid YAML"),
        ("name: 2024-99-99", "month must be in 1..12; put text in quotes"),
        ("seed: !!int many", "put text in quotes"),
        (f"seed: {'9' * 5000}", "put text in quotes"),
        ("name: " + "[" * 5000, "nested too deeply"),
        ("name: a\0b", "special characters are not allowed; save it as UTF-8 text"),
        (f"{GOOD}seed: 0x{'f' * 5000}", "seed: must be at most 4294967295; found a number of"),
        (f"{GOOD}'': 1", "'': is not a field"),
        (f"{GOOD}tokenizer: &a [*a]", "tokenizer: expected text"),
    ],
)
def test_what_is_no_mapping_is_one_line(text: str, words: str) -> None:
    [found] = faults(text)
    assert words in found
    assert "\n" not in found


@pytest.mark.parametrize(
    "text", [GOOD + "name: other\n", GOOD.replace("min: 1", "max: 1"), GOOD + "'name': other\n"]
)
def test_a_field_that_is_given_twice_is_refused(text: str) -> None:
    [found] = faults(text)
    assert re.match(r"line \d: not valid YAML: '(name|max)' is given twice; keep one", found)


def test_fields_of_one_part_may_be_merged_into_another() -> None:
    merged = GOOD + "validate: &some {top: 3}\nrefine: {<<: *some, rounds: 1}\n"
    assert parse(merged).refine.top == 3


@pytest.mark.parametrize(
    ("line", "example"),
    [
        (
            "tasks: [mmlu]",
            "tasks[0]: expected fields in braces, such as {name: mmlu}; found 'mmlu'",
        ),
        ("tasks: mmlu", "tasks: expected a list, such as [{name: mmlu}]; found 'mmlu'"),
        ("layers: 4", "layers: expected fields in braces, such as {min: 1, max: 4}; found 4"),
        ("validate: null", "validate: expected fields in braces, such as {top: 20}; found null"),
        ("refine: {rounds: -1}", "refine.rounds: must be 0 or more; found -1, so change it"),
        (
            "questions: {holdout: 1}",
            "questions.holdout: must be less than 1; found 1, so change it",
        ),
    ],
)
def test_a_fault_shows_how_the_field_is_written(line: str, example: str) -> None:
    data = {**yaml.safe_load(GOOD), **yaml.safe_load(line)}
    assert faults(yaml.safe_dump(data)) == [example]


def test_the_five_first_fields_suffice() -> None:
    definition = parse(GOOD)
    assert (definition.questions.fast, definition.questions.full) == (20, None)
    assert (definition.explore.population, definition.explore.generations) == (40, 20)
    assert definition.validation.top == 20
    assert (definition.refine.top, definition.refine.verify) == (3, 5)
    assert definition.tasks[0].metric == "acc"
    assert definition.trust_remote_code is False
    assert definition.prior_layer_sets == []


def test_plain_data_makes_the_same_definition_again() -> None:
    definition = parse(GOOD + "prior: {single_layer_scores: [0.1, 0.2], layer_sets: [[1], [0, 1]]}")
    again = parse(yaml.safe_dump(definition.to_dict()))
    assert again == definition
    assert again.prior_layer_sets == [LayerSet.of(1), LayerSet.of(0, 1)]


def test_a_definition_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(GOOD).name = "other"  # type: ignore[misc]


def test_the_budget_may_change_and_the_rest_ties_a_study_to_its_definition(tmp_path: Path) -> None:
    mine = parse(GOOD).fingerprint()
    for budget in ("explore: {population: 9}", "validate: {top: 1}", "refine: {rounds: 1}"):
        assert parse(GOOD + budget).fingerprint() == mine
    for other in ("seed: 1", "questions: {fast: 3}", "task_path: x", "prior: {layer_sets: [[1]]}"):
        assert parse(GOOD + other).fingerprint() != mine
    assert parse(GOOD, tmp_path).fingerprint() == mine


def test_folders_are_relative_to_the_file_and_hub_ids_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "base").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    definition = parse(GOOD, tmp_path)
    assert definition.resolve("models/base") == str(tmp_path / "models" / "base")
    assert definition.resolve("org/base") == "org/base"
    assert definition.resolve("./nowhere") == str(tmp_path / "nowhere")
    assert definition.resolve("../x") == str(tmp_path.parent / "x")
    assert definition.resolve("/a/b") == "/a/b"
    assert definition.resolve("~/x") == str(tmp_path / "x")


def test_a_file_is_found_by_path_and_a_shipped_study_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)
    (tmp_path / "bare").write_text(GOOD)
    assert load_study(str(tmp_path / "mine.yaml")).folder == tmp_path
    assert load_study(str(tmp_path / "bare")).name == "mine"
    assert load_study("full").name == "full"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", ["'nothing'", "demo", "full", "quick"]),
        ("missing.yaml", ["missing.yaml", "No such file"]),
        ("folder.yaml", ["folder.yaml", "directory"]),
        ("binary.yaml", ["binary.yaml", "not UTF-8"]),
        ("pipe.yaml", ["pipe.yaml", "not a file"]),
        ("large.yaml", ["large.yaml", "larger than 1,000,000 bytes"]),
        ("x" * 5000, ["neither a file nor a shipped study"]),
        ("x" * 5000 + ".yaml", ["File name too long"]),
        ("a\0b", ["neither a file nor a shipped study"]),
    ],
)
def test_a_study_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.yaml").mkdir()
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    os.mkfifo("pipe.yaml")
    with Path("large.yaml").open("wb") as large:
        large.truncate(10**12)
    with pytest.raises(InputError) as caught:
        load_study(name)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_the_studies_of_the_design_ship() -> None:
    shipped = {"demo", "full", "laptop", "llamba-1b", "llamba-3b", "quick"}
    assert shipped == {path.stem for path in shipped_studies()}


@pytest.mark.parametrize("path", shipped_studies(), ids=lambda path: path.stem)
def test_a_shipped_study_validates_and_its_first_line_runs_it(path: Path) -> None:
    definition = load_study(str(path))
    assert definition.name == path.stem
    first = path.read_text("utf-8").splitlines()[0]
    assert first.startswith("# optlayers search")
    named = re.search(r"--study (\S+)", first)
    # The command without a name runs the demo.
    name = named.group(1) if named else "demo"
    here = STUDIES.parent / name
    assert (load_study(str(here)) if here.is_file() else load_study(name)) == definition


def test_the_presets_have_the_numbers_of_the_design() -> None:
    full, quick = load_study("full"), load_study("quick")
    assert (full.questions.fast, full.questions.full) == (20, None)
    assert (quick.questions.fast, quick.questions.full) == (10, 50)
    numbers = [
        (s.explore.population, s.explore.generations, s.explore.patience) for s in (full, quick)
    ]
    assert numbers == [(40, 20, 6), (20, 15, 8)]
    for study in (full, quick):
        scores = study.prior.single_layer_scores
        assert scores is not None
        assert len(scores) == 32
        assert max(range(32), key=scores.__getitem__) == 17


def test_what_is_swapped_and_from_where_is_part_of_the_study() -> None:
    plain = parse(GOOD)
    assert (plain.graft.swap, plain.graft.source(3)) == ("layer", 3)
    assert parse(with_field("swap", "layer")).fingerprint() == plain.fingerprint()
    mapped = parse(with_field("donor_map", [5, 3, 1]))
    assert mapped.graft.sources(LayerSet.of(0, 2)) == LayerSet.of(5, 1)
    assert mapped.graft.sources(None) == LayerSet.of(1, 3, 5)
    mlps = parse(with_field("swap", "mlp"))
    assert len({s.fingerprint() for s in (plain, mapped, mlps)}) == 3


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"name": "a", "metric": "kl"}, "metric kl needs a text"),
        (
            {"name": "a", "text": "a.txt"},
            "metric of a text: expected perplexity or kl; found 'acc'",
        ),
    ],
)
def test_a_text_and_its_metric_come_together(task: dict[str, str], words: str) -> None:
    assert words in faults(with_field("tasks", [task]))[0]
    whole = {"name": "a", "metric": "kl", "text": "a.txt"}
    assert parse(with_field("tasks", [whole])).is_real_valued
    assert not parse(GOOD).is_real_valued


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("acc,", "expected METRIC or METRIC,FILTER; found 'acc,'"),
        (",strict", "expected METRIC or METRIC,FILTER; found ',strict'"),
        ("logprob,none", "logprob is computed before any filter"),
        ("kl,none", "kl is computed before any filter"),
    ],
)
def test_a_filter_stands_behind_a_metric_of_the_task(metric: str, words: str) -> None:
    assert words in faults(with_field("tasks", [{"name": "a", "metric": metric}]))[0]


def test_a_metric_is_read_in_the_words_of_lm_eval() -> None:
    tasks = [{"name": "a", "metric": "exact_match,strict,a"}, {"name": "b"}]
    first, second = parse(with_field("tasks", tasks)).tasks
    assert (first.measure, first.filter) == ("exact_match", "strict,a")
    assert (second.measure, second.filter) == ("acc", None)


def test_several_donors_have_names_and_one_donor_needs_none() -> None:
    study = parse(SEVERAL)
    assert study.donor_names == ("a", "b")
    assert [spec.model for spec in study.donor_specs] == ["org/one", "org/two"]
    assert study.graft.donors == ("a", "b")
    assert "donor" not in study.to_dict()
    assert parse(yaml.safe_dump(study.to_dict())) == study
    one = parse(GOOD)
    assert one.donor_names == ("donor",)
    assert "donors" not in one.to_dict()


def test_a_study_of_several_donors_knows_good_sets_by_their_names() -> None:
    study = parse(SEVERAL + 'prior: {layer_sets: [["0@b", "3@a"]]}\n')
    assert study.prior_layer_sets == [LayerSet.of(1, 6)]
    assert study.to_dict()["prior"]["layer_sets"] == [["0@b", "3@a"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "donors: [{name: a, model: x}, {name: b, model: y}]\n", "donor: is given, and don"),
        (SEVERAL.replace("name: b", "name: a"), "donors: a name is given twice; give each"),
        (SEVERAL + "donor_map: [0, 1]\n", "donor_map: is for one donor; give each of donors its"),
        (SEVERAL + "prior: {single_layer_scores: [0.1, 0.2]}\n", "for one donor; remove them, and"),
        (
            SEVERAL + "prior: {layer_sets: [[3]]}\n",
            "does not say which donor; write a layer as",
        ),
        (
            SEVERAL + 'prior: {layer_sets: [["3@c"]]}\n',
            "there is no donor 'c'; write a layer as",
        ),
        (SEVERAL + 'prior: {layer_sets: [["3@a", "3@b"]]}\n', "'3@a,3@b': a layer is named twice"),
        (
            GOOD + 'prior: {layer_sets: [["3@a"]]}\n',
            "expected indices with commas between",
        ),
    ],
)
def test_what_does_not_fit_several_donors_is_one_line(text: str, words: str) -> None:
    [found] = faults(text)
    assert words in found


def test_aliases_that_expand_without_bound_are_refused_at_once() -> None:
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    [found] = faults(bomb)
    assert "more than 500,000 values; write out what the aliases mean" in found
