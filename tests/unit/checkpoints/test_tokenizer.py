"""Which tokenizer a study has, whether it fits, and what an export keeps of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from optlayers.checkpoints.card import documents
from optlayers.checkpoints.parents import Parents, open_parents
from optlayers.checkpoints.reader import Checkpoint
from optlayers.checkpoints.tokenizer import (
    SETTINGS,
    copy_tokenizer,
    load_tokenizer,
    special_tokens,
    tokenizer_folder,
    tokenizer_note,
)
from optlayers.config.study import StudyDefinition, parse_study
from optlayers.errors import ExportError, ModelError
from optlayers.evaluation.evaluator import ModelEvaluator
from optlayers.layerset import LayerSet
from tests.helpers.paths import DEMO_TASKS
from tests.helpers.tiny import STUDY, export, tiny_llama

CPU = torch.device("cpu")


@pytest.fixture
def pair(tiny_pair: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pair, to change."""
    for part in ("base", "donor"):
        shutil.copytree(tiny_pair / part, tmp_path / "pair" / part)
    return tmp_path / "pair"


def study(pair: Path, *lines: str) -> StudyDefinition:
    text = STUDY.format(file="tiny.yaml", pair=pair, tasks=DEMO_TASKS)
    return parse_study("\n".join([text, *lines]), "tiny.yaml", pair)


def edit(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text()) if path.exists() else {}
    kept = {key: value for key, value in {**data, **changes}.items() if value != "none"}
    path.write_text(json.dumps(kept))


def words(*ids: int, **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer with words of these ids and no others."""
    core = Tokenizer(models.WordLevel({f"w{i}": i for i in ids}, unk_token=f"w{ids[0]}"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=512, **special)


def replace_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(("highest", "fits"), [(1023, True), (1024, False), (4000, False)])
def test_ids_with_holes_are_counted_by_the_highest(pair: Path, highest: int, fits: bool) -> None:
    replace_tokenizer(pair / "donor", words(0, 1, 2, 300, highest, eos_token="w1"))
    definition = study(pair)
    base = open_parents(definition).base
    assert len(load_tokenizer(definition)) == 5
    if fits:
        load_tokenizer(definition, base)
        return
    with pytest.raises(ModelError, match=f"ids up to {highest} and base .* embeds 1024 tokens"):
        load_tokenizer(definition, base)
    with pytest.raises(ModelError, match=f"ids up to {highest}"):
        ModelEvaluator(definition, CPU, torch.float32)


@pytest.mark.parametrize("special", ["bos_token", "eos_token", ""])
def test_lm_eval_needs_a_first_token(pair: Path, special: str) -> None:
    named = {special: "w1"} if special else {}
    replace_tokenizer(pair / "donor", words(*range(9), **named))
    definition = study(pair)
    base = open_parents(definition).base
    if special:
        assert load_tokenizer(definition, base)
        return
    with pytest.raises(ModelError, match="neither a BOS nor an EOS token, and lm-eval needs one"):
        load_tokenizer(definition, base)


def ids_of(out: Path) -> list[dict[str, Any]]:
    """The special tokens of an export, by each file that names them."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    files = [json.loads((out / f).read_text()) for f in ("config.json", "generation_config.json")]
    return [{name: data[name] for name in names if data.get(name) is not None} for data in files]


def test_special_tokens_are_those_of_the_exported_tokenizer(pair: Path, tmp_path: Path) -> None:
    base = tiny_llama(seed=3, vocab_size=1200, bos_token_id=1101, eos_token_id=[1102, 1103])
    base.generation_config.repetition_penalty = 1.25
    base.save_pretrained(pair / "grown")
    AutoTokenizer.from_pretrained(pair / "donor").save_pretrained(pair / "grown")
    edit(pair / "donor" / "generation_config.json", repetition_penalty=1.5)
    for part, penalty, expected in (
        ("grown", 1.25, {"bos_token_id": 1101, "eos_token_id": [1102, 1103], "pad_token_id": 0}),
        ("base", 1.5, {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}),
    ):
        text = STUDY.format(file="s", pair=pair, tasks=DEMO_TASKS)
        definition = parse_study(text.replace("/base}", f"/{part}}}"), "s", pair)
        folder = tokenizer_folder(definition)
        assert folder == pair / ("grown" if part == "grown" else "donor")
        out = export(open_parents(definition), LayerSet.of(1), tmp_path / part, tokenizer=folder)
        assert ids_of(out) == [expected, expected]
        made = json.loads((out / "generation_config.json").read_text())
        assert made["repetition_penalty"] == penalty


def test_the_card_says_whose_the_tokenizer_is(pair: Path, tmp_path: Path) -> None:
    tiny_llama(seed=3, vocab_size=1200).save_pretrained(pair / "grown")
    words(*range(9), eos_token="w4").save_pretrained(pair / "grown")
    words(*range(9), eos_token="w4").save_pretrained(tmp_path / "third")
    text = STUDY.format(file="s", pair=pair, tasks=DEMO_TASKS)
    for changed, owner in (
        (text, "the donor"),
        (text.replace("/base}", "/grown}"), "the base"),
        (f"{text}\ntokenizer: {tmp_path}/third", "third"),
    ):
        definition = parse_study(changed, "s", pair)
        made = documents(definition, open_parents(definition), LayerSet.of(1), None)({})
        assert f"The tokenizer and its chat template are those of {owner}." in made["README.md"]
        info = json.loads(made["checkpoint_info.json"])
        assert info["tokenizer"] == owner.removeprefix("the ")


def test_a_tokenizer_of_neither_model_brings_its_own_ids(pair: Path, tmp_path: Path) -> None:
    words(*range(9), eos_token="w4", pad_token="w6").save_pretrained(tmp_path / "third")
    parents = open_parents(study(pair))
    out = export(parents, LayerSet.of(1), tmp_path / "out", tokenizer=tmp_path / "third")
    expected = {"eos_token_id": 4, "pad_token_id": 6}
    assert ids_of(out) == [expected, expected]


def test_ids_that_a_config_does_not_name_come_from_its_tokenizer(pair: Path) -> None:
    edit(pair / "donor" / "config.json", eos_token_id="none", pad_token_id=None, bos_token_id=3)
    found = special_tokens(open_parents(study(pair)), pair / "donor")
    assert found == {"bos_token_id": 3, "eos_token_id": 0, "pad_token_id": 0}


@pytest.mark.parametrize("text", ["[]", "{", None])
def test_settings_of_generation_that_cannot_be_read_are_made_anew(
    pair: Path, tmp_path: Path, text: str | None
) -> None:
    path = pair / "donor" / "generation_config.json"
    path.unlink() if text is None else path.write_text(text)
    out = export(open_parents(study(pair)), LayerSet.of(1), tmp_path / "out")
    expected = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    assert ids_of(out) == [expected, expected]


@pytest.mark.parametrize(
    "settings", [{"model_max_length": "x"}, {"padding_side": "up"}, {"auto_map": "a.B"}]
)
def test_a_tokenizer_that_fails_at_its_first_text_is_one_line(
    pair: Path, settings: dict[str, Any]
) -> None:
    edit(pair / "donor" / SETTINGS, **settings)
    with pytest.raises(ModelError, match="donor: cannot be loaded") as caught:
        load_tokenizer(study(pair))
    assert "\n" not in str(caught.value)


def test_two_tokenizers_of_one_size_and_other_tokens_are_noted(pair: Path) -> None:
    definition = study(pair)
    base, tokenizer = open_parents(definition).base, load_tokenizer(definition)
    assert tokenizer_note(definition, base, tokenizer) is None, "the base has none"
    tokenizer.save_pretrained(pair / "base")
    assert tokenizer_note(definition, base, tokenizer) is None, "both are equal"
    data = json.loads((pair / "base" / "tokenizer.json").read_text())
    vocabulary = data["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (pair / "base" / "tokenizer.json").write_text(json.dumps(data))
    note = tokenizer_note(definition, base, tokenizer)
    assert note is not None
    assert "gives 2 of its 1024 tokens (such as 'a') other ids than that of base" in note
    said: list[str] = []
    ModelEvaluator(definition, CPU, torch.float32, said.append, limit=1)
    assert note in said
    named = study(pair, f"tokenizer: {pair}/base")
    assert tokenizer_note(named, base, load_tokenizer(named)) is None


CODE = """
from transformers import PreTrainedTokenizerFast
from .{helper} import prompt

class OddTokenizer(PreTrainedTokenizerFast):
    vocab_files_names = {{"vocab_file": "odd.words", "tokenizer_file": "tokenizer.json"}}
    def odd(self):
        return prompt()
"""


@pytest.fixture
def odd(pair: Path, request: pytest.FixtureRequest) -> Path:
    """A donor whose tokenizer is a class in its folder, which imports another file."""
    donor, helper = pair / "donor", getattr(request, "param", "tokenization_help")
    (donor / "tokenization_odd.py").write_text(CODE.format(helper=helper))
    (donor / f"{helper}.py").write_text("def prompt():\n    return 'own code'\n")
    (donor / "modeling_odd.py").write_text("raise RuntimeError('never needed')\n")
    (donor / "odd.words").write_text("kept")
    named = {"AutoTokenizer": [None, "tokenization_odd.OddTokenizer"]}
    edit(donor / SETTINGS, auto_map=named, tokenizer_class="PreTrainedTokenizerFast")
    return donor


def test_the_code_of_a_trusted_tokenizer_travels_with_it(
    odd: Path, pair: Path, tmp_path: Path
) -> None:
    parents = open_parents(study(pair))
    out = export(parents, LayerSet.of(1), tmp_path / "out", tokenizer=odd, trust=True)
    assert {path.name for path in out.glob("*odd*")} == {"tokenization_odd.py", "odd.words"}
    shutil.rmtree(pair)
    tokenizer = AutoTokenizer.from_pretrained(out, trust_remote_code=True)
    assert tokenizer.odd() == "own code"


def test_the_code_of_a_tokenizer_that_is_not_trusted_stays_behind(
    odd: Path, pair: Path, tmp_path: Path
) -> None:
    out = export(open_parents(study(pair)), LayerSet.of(1), tmp_path / "out", tokenizer=odd)
    assert not list(out.glob("tokenization*"))
    # The hybrid's own code must be trusted, and the tokenizer stays what the study used.
    tokenizer = AutoTokenizer.from_pretrained(out, trust_remote_code=True)
    assert not hasattr(tokenizer, "odd")


@pytest.mark.parametrize("odd", ["parts"], indirect=True)
def test_code_of_a_name_that_the_hybrid_needs_is_refused(
    odd: Path, pair: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=r"its parts\.py has the name of a file of the hybrid"):
        export(open_parents(study(pair)), LayerSet.of(1), tmp_path / "x", tokenizer=odd, trust=True)
    assert not list(tmp_path.glob("*x*"))


def test_additional_chat_templates_are_exported(pair: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(pair / "donor")
    tokenizer.chat_template = {"default": "plain", "tools": "with tools"}
    tokenizer.save_pretrained(pair / "donor")
    assert (pair / "donor" / "additional_chat_templates").is_dir()
    out = export(open_parents(study(pair)), LayerSet.of(1), tmp_path / "out")
    assert AutoTokenizer.from_pretrained(out).chat_template == tokenizer.chat_template


def test_a_copy_of_a_broken_tokenizer_is_refused(pair: Path, tmp_path: Path) -> None:
    (pair / "donor" / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="donor: cannot be loaded"):
        copy_tokenizer(pair / "donor", tmp_path)


def test_the_ids_belong_to_the_folder_whatever_its_path(pair: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(pair / "donor")
    edit(pair / "donor" / "config.json", eos_token_id=8)
    donor = Checkpoint("donor", pair / "donor")
    assert special_tokens(Parents(donor, (donor,)), tmp_path / "link")["eos_token_id"] == 8
