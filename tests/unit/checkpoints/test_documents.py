"""Documents, tokenizer, dtype conversion and hard links of exports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from optlayers.checkpoints.card import documents
from optlayers.checkpoints.info import licence_of
from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import INDEX, SINGLE, Checkpoint
from optlayers.checkpoints.tensorfile import read_header, write_tensors
from optlayers.checkpoints.writer import CheckpointWriter
from optlayers.config.study import load_study
from optlayers.errors import InputError, ModelError
from optlayers.layerset import LayerSet
from tests.helpers.tiny import export

LAYERS = LayerSet.of(1, 4)
SCORE: dict[str, Any] = {
    "score": 0.5,
    "ci_low": 0.41,
    "ci_high": 0.59,
    "questions": 32,
    "fidelity": "full",
    "trial": 7,
    "answers": "",
    "device": "cpu",
    "evaluated_sets": 216,
    "held_out": {"score": 0.4, "ci_low": 0.3, "ci_high": 0.5, "questions": 16},
}


def texts(tiny_parents: Parents, study: Path, score: Any) -> dict[str, str]:
    return documents(load_study(str(study)), tiny_parents, LAYERS, score)({})


def test_the_card_says_what_it_is_and_how_it_was_measured(
    tiny_parents: Parents, tiny_study: Path
) -> None:
    card = texts(tiny_parents, tiny_study, SCORE)["README.md"]
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "transformers"
    assert "base_model" not in front, "folders are no models of the hub"
    assert "| layers from the donor | 1, 4 |" in card
    assert "2 of its 6 decoder layers come from donor" in card
    assert "| 32 of the search (full fidelity) | 50.00 % | 41.0 to 59.0 |" in card
    assert "| 16 held out, never used in the search | 40.00 % | 30.0 to 50.0 |" in card
    assert "216 layer sets were evaluated" in card
    assert "on demo (acc" in card
    assert str(tiny_study.parent) not in card
    unscored = texts(tiny_parents, tiny_study, None)["README.md"]
    assert "This layer set was not evaluated" in unscored


def test_documents_hold_no_path_of_the_machine(tiny_parents: Parents, tiny_study: Path) -> None:
    for name, text in texts(tiny_parents, tiny_study, SCORE).items():
        assert str(tiny_study.parent) not in text, name


def test_licences_are_those_of_the_sources(
    tiny_parents: Parents, tiny_pair: Path, tiny_study: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_pair / "base", tmp_path / "base"))
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: llamba-1\n---\n# Base\n")
    (base / "LICENSE").write_text("Do good.")
    assert licence_of(base) == "llamba-1"
    parents = Parents(Checkpoint("base", base), tiny_parents.donors)
    made = texts(parents, tiny_study, None)
    assert made["base-LICENSE"] == "Do good."
    assert "| llamba-1 |" in made["README.md"]
    assert "not named in its folder" in made["README.md"]
    assert json.loads(made["checkpoint_info.json"])["base"]["licence"] == "llamba-1"
    for text in ("no front", "---\n: [\n---\n", "---\n- a\n---\n", "---\nlanguage: en\n---\n"):
        (base / "README.md").write_text(text)
        assert licence_of(base) is None


def test_the_chat_template_is_copied(
    tiny_parents: Parents, tiny_pair: Path, tmp_path: Path
) -> None:
    donor = Path(shutil.copytree(tiny_pair / "donor", tmp_path / "donor"))
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    (donor / "chat_template.jinja").write_text(template)
    out = CheckpointWriter(tiny_parents, donor).write(LAYERS, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(out, trust_remote_code=True)
    said = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert said == "<user>Hi"


def test_the_tokenizer_splits_text_as_in_the_donor(
    tiny_parents: Parents, tiny_pair: Path, tmp_path: Path
) -> None:
    # transformers corrects the class that a Mistral folder names, and not that of a hybrid.
    donor = Path(shutil.copytree(tiny_pair / "donor", tmp_path / "donor"))
    config = json.loads((donor / "config.json").read_text())
    (donor / "config.json").write_text(json.dumps({**config, "model_type": "mistral"}))
    named = donor / "tokenizer_config.json"
    data = {**json.loads(named.read_text()), "tokenizer_class": "LlamaTokenizerFast"}
    named.write_text(json.dumps(data))
    out = CheckpointWriter(tiny_parents, donor).write(LAYERS, tmp_path / "out")
    made = json.loads((out / "tokenizer_config.json").read_text())
    assert made == {**data, "tokenizer_class": "PreTrainedTokenizerFast"}
    mine, theirs = AutoTokenizer.from_pretrained(out), AutoTokenizer.from_pretrained(donor)
    assert type(mine) is type(theirs)
    text = "Question: which is the capital?\nAnswer: A"
    assert mine(text).input_ids == theirs(text).input_ids


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_converted_on_request(
    tiny_parents: Parents, tmp_path: Path, dtype: str
) -> None:
    plain = export(tiny_parents, LAYERS, tmp_path / "plain")
    out = export(tiny_parents, LAYERS, tmp_path / "out", dtype=dtype)
    wide, narrow = load_file(plain / SINGLE), load_file(out / SINGLE)
    for name, tensor in wide.items():
        assert torch.equal(narrow[name], tensor.to(getattr(torch, dtype))), name
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == getattr(torch, dtype)


def test_an_unknown_dtype_is_refused(tiny_parents: Parents, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--dtype 'int4': choose one of float32, bfloat16"):
        export(tiny_parents, LAYERS, tmp_path / "out", dtype="int4")


def test_a_conversion_uses_a_small_buffer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from optlayers.checkpoints import tensorfile

    monkeypatch.setattr(tensorfile, "BUFFER_BYTES", 100)
    whole = {
        "odd": torch.randn(33, 7),
        "none": torch.zeros(0, 4),
        "one": torch.tensor(3.5),
        "double": torch.randn(19, dtype=torch.float64),
        "index": torch.arange(41),
    }
    save_file(whole, tmp_path / "from.safetensors")
    entries = list(read_header(tmp_path / "from.safetensors").items())
    steps: list[int] = []
    write_tensors(tmp_path / "same.safetensors", entries, None, steps.append)
    assert sum(steps) == sum(t.nbytes for t in whole.values())
    for name, tensor in load_file(tmp_path / "same.safetensors").items():
        assert torch.equal(tensor, whole[name]), name
    write_tensors(tmp_path / "half.safetensors", entries, "BF16")
    for name, tensor in load_file(tmp_path / "half.safetensors").items():
        expected = whole[name] if name == "index" else whole[name].to(torch.bfloat16)
        assert torch.equal(tensor, expected), name


@pytest.mark.parametrize("cut", [4, 60, -3])
def test_a_header_that_does_not_fit_its_file_is_one_line(tmp_path: Path, cut: int) -> None:
    save_file({"a": torch.randn(8, 8)}, tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(data[:cut])
    with pytest.raises(ModelError, match="not a whole safetensors file") as caught:
        read_header(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


def test_linked_exports_share_equal_files_and_load(tiny_parents: Parents, tmp_path: Path) -> None:
    writer = CheckpointWriter(tiny_parents, tiny_parents.donors[0].folder, link=True)
    sets = [LayerSet.of(1, 4), LayerSet.of(1, 5), LayerSet.of(2)]
    outs = [writer.write(layers, tmp_path / str(layers)) for layers in sets]
    alone = [export(tiny_parents, layers, tmp_path / f"alone{layers}") for layers in sets]
    ids = torch.tensor([[5, 6, 7, 8]])
    for linked, plain in zip(outs, alone, strict=True):
        with torch.inference_mode():
            mine = AutoModelForCausalLM.from_pretrained(linked)(ids).logits
            assert torch.equal(mine, AutoModelForCausalLM.from_pretrained(plain)(ids).logits)
    files = {p.stat().st_ino: p.stat().st_size for o in outs for p in o.glob("*.safetensors")}
    # One file for the ends, one for each layer of the base (0 to 5) and of the donor (1, 2, 4, 5),
    # less the layer that every set takes from the donor: none.
    assert len(files) == 1 + 6 + 4
    whole = sum(p.stat().st_size for o in outs for p in o.glob("*.safetensors"))
    assert sum(files.values()) < 0.65 * whole
    assert writer.linked_bytes > 0.35 * whole
    index = json.loads((outs[0] / INDEX).read_text())
    assert set(index["weight_map"].values()) == {p.name for p in outs[0].glob("*.safetensors")}
