"""Two donors, of which each has one good layer: from the study file to checkpoints.

The target is a random model whose answers are the key. The base is the target with noise in layers
1 and 2; donor `a` is all noise but for the target's layer 1, donor `b` but for its layer 2, which
lies at index 4. So `1@a,2@b` is the target itself.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import optlayers
from optlayers.checkpoints.info import check_definition, read_info
from optlayers.errors import InputError
from optlayers.evaluation.evaluator import ModelEvaluator
from optlayers.layerset import LayerSet
from optlayers.report.document import as_data, markdown, sections
from optlayers.report.page import page
from optlayers.trials.answers import decode_answers
from tests.helpers.invoke import invoke
from tests.helpers.paths import DEMO_TASKS
from tests.helpers.tiny import tiny_llama, train_tiny_tokenizer

CPU = torch.device("cpu")
STUDY = """\
name: several
base: {model: base}
donors:
  - {name: a, model: a}
  - {name: b, model: b, donor_map: [0, 1, 4, 3, 2, 5]}
layers: {min: 1, max: 2}
tasks: [{name: keyed}]
task_path: tasks
questions: {fast: 12, full: 36, holdout: 0.2}
explore: {population: 8, generations: 4}
validate: {top: 3}
refine: {top: 1, verify: 2, rounds: 2}
"""
TASK = "include: _demo_template\ntask: keyed\ndataset_kwargs:\n  file: keyed.jsonl\n"
BEST = LayerSet.of(2, 5)  # layer 1 of the first donor and 2 of the second, of two


@dataclass
class Trio:
    """The folder of the models, tasks and study file; and the target."""

    folder: Path
    target: Any

    @property
    def file(self) -> Path:
        return self.folder / "several.yaml"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.folder / 'several.db'}"


def _with(layers: Any, number: int, layer: Any) -> None:
    layers[number].load_state_dict(layer.state_dict())


def _key(folder: Path, documents: Sequence[dict[str, Any]]) -> None:
    lines = "".join(f"{json.dumps(document)}\n" for document in documents)
    (folder / "tasks" / "keyed.jsonl").write_text(lines, encoding="utf-8")


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    folder = tmp_path_factory.mktemp("trio")
    target = tiny_llama(seed=11)
    base, a, b = copy.deepcopy(target), tiny_llama(seed=21), tiny_llama(seed=22)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for number in (1, 2):
            for weight in base.model.layers[number].parameters():
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    _with(a.model.layers, 1, target.model.layers[1])
    _with(b.model.layers, 4, target.model.layers[2])
    for name, model in (("base", base), ("a", a), ("b", b), ("target", target)):
        model.save_pretrained(folder / name)
    train_tiny_tokenizer().save_pretrained(folder / "a")
    (folder / "tasks").mkdir()
    for name in ("_demo_template", "data.py"):
        (folder / "tasks" / name).write_text((DEMO_TASKS / name).read_text("utf-8"), "utf-8")
    (folder / "tasks" / "keyed.yaml").write_text(TASK, "utf-8")
    documents = [
        json.loads(line)
        for name in ("capitals", "languages")
        for line in (DEMO_TASKS / f"{name}.jsonl").read_text("utf-8").splitlines()[:24]
    ]
    _key(folder, documents)
    made = Trio(folder, target)
    made.file.write_text(STUDY, "utf-8")
    # What the target answers is right.
    evaluator = ModelEvaluator(optlayers.load_study(str(made.file)), CPU, torch.float32)
    questions = evaluator.tasks.questions([0] * len(documents), list(range(len(documents))))
    found = evaluator.engine.likelihoods([BEST], questions)[0, :, 0].reshape(-1, 4)
    _key(folder, [{**d, "answer": int(n)} for d, n in zip(documents, found.argmax(1), strict=True)])
    return made


@pytest.fixture(scope="module")
def searched(trio: Trio) -> optlayers.SearchResult:
    """The study, searched in two goes: a few sets first, then the same call goes on."""
    begun = trio.folder / "begun.yaml"
    begun.write_text(
        STUDY.replace("generations: 4", "generations: 1").replace("rounds: 2", "rounds: 0")
    )
    first = optlayers.search_study(begun, trio.url, device="cpu")
    trials = len(first.study.trials)
    done = optlayers.search_study(trio.file, trio.url, device="cpu")
    assert first.is_done
    assert len(done.study.trials) > trials
    return done


def run(trio: Trio, *arguments: str) -> str:
    return invoke(*arguments, "--study", str(trio.file))


def test_the_search_finds_one_layer_of_each_donor(searched: optlayers.SearchResult) -> None:
    best = searched.best
    assert best is not None
    assert best.layers == ["1@a", "2@b"]
    assert best.score == 1.0
    others = [row.score for row in searched.leaderboard[1:] if row.fidelity == "full"]
    assert max(others) < 0.9
    for row in searched.leaderboard:
        assert len({str(layer).partition("@")[0] for layer in row.layers}) == row.n_layers <= 2


def test_a_trial_names_base_or_donor_of_every_layer(searched: optlayers.SearchResult) -> None:
    best = searched.study.best_trial
    assert best.user_attrs["layers"] == "1@a,2@b"
    assert best.user_attrs["set"] == "01@a 02@b"
    assert best.params == {
        "layer_00": "base", "layer_01": "a", "layer_02": "b",
        "layer_03": "base", "layer_04": "base", "layer_05": "base",
    }  # fmt: skip
    probed = {t.user_attrs["layers"] for t in searched.study.trials if t.user_attrs["size"] == 1}
    assert probed == {f"{i}@{donor}" for i in range(6) for donor in "ab"}


def test_the_held_out_check_has_the_base_and_both_donors(
    searched: optlayers.SearchResult,
) -> None:
    report = searched.report()
    assert list(report.references) == ["base", "a", "b"]
    assert [found.name for found in report.held_out][-3:] == ["base", "a", "b"]
    assert report.held_out[0].layers == ["1@a", "2@b"]
    assert report.held_out[0].score == 1.0
    assert report.held_out[-1].layers == [f"{i}@b" for i in range(6)]


def test_what_people_read_has_the_names(trio: Trio, searched: optlayers.SearchResult) -> None:
    report = searched.report()
    data = json.loads(json.dumps(as_data(report)))
    assert data["entries"][0]["layers"] == ["1@a", "2@b"]
    drawn = sections(report)
    text = markdown(report, drawn)
    assert "a (a) and b (b) to put into base" in text
    assert "Best: layers 1@a, 2@b with 100.0 %" in text
    assert "The donor b alone: " in text
    assert "1@a, 2@b" in page(report, drawn)
    rows = json.loads(run(trio, "leaderboard", "--storage", trio.url, "--json"))
    assert rows[0]["layers"] == ["1@a", "2@b"]
    assert rows[0]["held_out"]["score"] == 1.0
    assert "1@a,2@b" in run(trio, "leaderboard", "--storage", trio.url)
    assert "layers 1@a,2@b" in run(trio, "status", "--storage", trio.url)
    effects = json.loads(run(trio, "patterns", "--storage", trio.url, "--json"))["layers"]
    top = sorted(effects, key=lambda effect: -effect["effect"])[:2]
    assert sorted(layers for effect in top for layers in effect["layers"]) == ["1@a", "2@b"]


def test_the_exported_best_is_the_target_wherever_it_loads(
    trio: Trio, searched: optlayers.SearchResult
) -> None:
    out = trio.folder / "exports"
    run(trio, "export-best", "--storage", trio.url, "--top", "1", "--out", str(out))
    [folder] = out.iterdir()
    assert folder.name == "01-layers-1_a-2_b"
    info = json.loads((folder / "checkpoint_info.json").read_text())
    assert info["layers"] == ["1@a", "2@b"]
    assert [(d["name"], d["donor_map"]) for d in info["donors"]] == [
        ("a", None),
        ("b", [0, 1, 4, 3, 2, 5]),
    ]
    card = (folder / "README.md").read_text()
    assert "come from a (a) and b (b),\nby maps of indices" in card
    assert "| layers from the donors | 1@a, 2@b |" in card
    tokens = torch.arange(1, 40)[None]
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        assert torch.equal(loaded(tokens).logits, trio.target(tokens).logits)
    # `verify` needs the definition and the answers, and knows nothing of donors.
    check_definition(read_info(folder), searched.definition, folder)
    assert info["score"]["questions"] == 36
    assert decode_answers(info["score"]["answers"], 36).all()


def test_one_set_is_evaluated_and_loaded_by_name(trio: Trio) -> None:
    found = json.loads(run(trio, "eval", "--layers", "1@a,2@b", "--json"))
    assert (found["layers"], found["score"]) == (["1@a", "2@b"], 1.0)
    tokens = torch.arange(1, 40)[None]
    same = optlayers.load_hybrid(str(trio.file), ["2@b", "1@a"], device="cpu")
    every = optlayers.load_hybrid(str(trio.file), "all@b", device="cpu")
    donor = AutoModelForCausalLM.from_pretrained(trio.folder / "b")
    with torch.inference_mode():
        assert torch.equal(same(tokens).logits, trio.target(tokens).logits)
        layers = donor.model.layers
        donor.model.layers = torch.nn.ModuleList(layers[i] for i in (0, 1, 4, 3, 2, 5))
        for part in ("embed_tokens", "norm"):
            setattr(donor.model, part, getattr(trio.target.model, part))
        donor.lm_head = trio.target.lm_head
        assert torch.equal(every(tokens).logits, donor(tokens, use_cache=False).logits)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ("1,2@b", "it does not say which donor; write a layer as 3@a or 3@b"),
        ("1@c", "there is no donor 'c'; write a layer as 3@a or 3@b"),
        ("1@a,1@b", "a layer is named twice; name each layer once"),
        ("6@a", "layer 6: the models have 6 layers, so an index is 0 to 5"),
        ("all", "it does not say which donor"),
    ],
)
def test_layers_that_name_no_donor_are_one_line(trio: Trio, layers: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        optlayers.load_hybrid(str(trio.file), layers, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_study_with_one_donor_is_stored_as_it_always_was(
    tiny_study: Path, tmp_path: Path
) -> None:
    study = optlayers.load_study(str(tiny_study))
    assert "donors" not in json.dumps(study.identity())
    assert study.donor_names == ("donor",)


def test_nothing_of_a_choice_shows_in_the_database(searched: optlayers.SearchResult) -> None:
    assert all("@" in trial.user_attrs["layers"] for trial in searched.study.trials)
    attrs = searched.study.user_attrs
    assert attrs["donors"] == ["a", "b"]
    assert "holdout:1@a,2@b" in attrs
