from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from optlayers.checkpoints.assembly import plan_pieces
from optlayers.checkpoints.fetch import model_folder, open_model
from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import INDEX, SINGLE, Checkpoint
from optlayers.errors import ModelError
from optlayers.inference.stack import LayerStack


@pytest.fixture
def donor(tiny_pair: Path, tmp_path: Path) -> Path:
    """A copy of the donor to break."""
    return Path(shutil.copytree(tiny_pair / "donor", tmp_path / "donor"))


@pytest.fixture
def sharded(tiny_pair: Path, tmp_path: Path) -> Path:
    """A copy of the donor in several files."""
    model = AutoModelForCausalLM.from_pretrained(tiny_pair / "donor")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    return tmp_path / "sharded"


def config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def remove(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


def write(file: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / file).write_text(text)

    return change


def truncate(folder: Path) -> None:
    data = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(data[: len(data) // 2])


def only_pickle(folder: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never opened")


def only_index(text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / SINGLE).unlink()
        (folder / INDEX).write_text(text)

    return change


FAULTS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no config": (remove("config.json"), ["config.json is missing", "name a Hugging Face"]),
    "broken JSON": (write("config.json", '{"a": '), ["config.json cannot be read", "fetch"]),
    "not text": (
        lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"),
        ["config.json cannot be read", "fetch"],
    ),
    "no object": (
        write("config.json", "[1]"),
        ["config.json is not a JSON object", "fetch it again"],
    ),
    "unknown type": (
        lambda folder: config(folder, model_type="wonder"),
        ["config.json", "'wonder'", "no adapter", "llama, llamba", "families.py"],
    ),
    "type without adapter": (
        lambda folder: config(folder, model_type="gpt2"),
        ["'gpt2'", "no adapter", "llama, llamba"],
    ),
    "no type": (
        lambda folder: config(folder, model_type=None),
        ["config.json: no model_type is named", "add it"],
    ),
    "bad value": (
        lambda folder: config(folder, num_hidden_layers="six"),
        ["config.json: ", "num_hidden_layers", "'six'"],
    ),
    "no weights": (remove(SINGLE), [SINGLE, "use a checkpoint in safetensors"]),
    "pickle only": (only_pickle, ["pytorch_model.bin is a pickle", "safetensors"]),
    "truncated": (truncate, [f"{SINGLE} is not a whole safetensors file", "fetch it again"]),
    "empty": (write(SINGLE, ""), [f"{SINGLE} is not a whole safetensors file", "fetch it again"]),
    "index of no map": (only_index("{}"), [f"{INDEX} has no weight_map", "fetch it again"]),
    "index of numbers": (
        only_index('{"weight_map": {"a": 1}}'),
        [f"{INDEX}", "fetch it again"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.replace(" ", "_"))
def test_a_broken_folder_is_one_line_with_file_and_fix(donor: Path, fault: str) -> None:
    damage, words = FAULTS[fault]
    damage(donor)
    with pytest.raises(ModelError) as caught:
        Checkpoint("my-donor", donor)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("model my-donor: ")
    assert len(line) < 500, line
    for word in words:
        assert word in line


def load(folder: Path) -> LayerStack:
    checkpoint = Checkpoint("my-donor", folder)
    return LayerStack.load(Parents(checkpoint, (checkpoint,)), torch.device("cpu"), torch.float32)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    lost = sorted(sharded.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(ModelError, match=f"{lost.name} is named in {INDEX} and missing; fetch it"):
        Checkpoint("my-donor", sharded)


def test_a_truncated_shard_is_named_when_it_is_read(sharded: Path) -> None:
    bent = sorted(sharded.glob("*.safetensors"))[1]
    bent.write_bytes(bent.read_bytes()[:-100])
    with pytest.raises(ModelError, match=f"{bent.name} is not a whole.*fetch it again") as caught:
        load(sharded)
    assert "\n" not in str(caught.value)


def test_an_index_that_names_a_wrong_file_is_read_as_transformers_reads_it(sharded: Path) -> None:
    before = Checkpoint("my-donor", sharded)
    index = json.loads((sharded / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    name = "model.layers.0.mlp.up_proj.weight"
    other = next(f for f in files if f != index["weight_map"][name])
    index["weight_map"][name] = other
    (sharded / INDEX).write_text(json.dumps(index))
    assert torch.equal(Checkpoint("my-donor", sharded).tensor(name), before.tensor(name))
    assert torch.equal(
        AutoModelForCausalLM.from_pretrained(sharded).state_dict()[name], before.tensor(name)
    )


def test_weights_of_another_shape_name_both_shapes(donor: Path) -> None:
    config(donor, intermediate_size=40)
    with pytest.raises(ModelError, match=r"\(48, 32\).*config\.json asks for \(40, 32\)") as caught:
        load(donor)
    line = str(caught.value)
    assert "\n" not in line
    assert "my-donor: tensor model.layers.0" in line
    assert "fetch" in line


def test_shards_and_one_file_hold_the_same_tensors(sharded: Path, donor: Path) -> None:
    one, many = Checkpoint("one", donor), Checkpoint("many", sharded)
    assert one.names() == many.names()
    assert len({many.entry(name).file for name in many.names()}) > 2
    for name in one.names():
        assert torch.equal(one.tensor(name), many.tensor(name))
    assert len(many.sha256) > 2


def test_names_below_a_module_are_named_as_the_module_names_them(donor: Path) -> None:
    checkpoint = Checkpoint("donor", donor)
    found = checkpoint.names_below("model.layers.1.mlp")
    assert sorted(found) == ["down_proj.weight", "gate_proj.weight", "up_proj.weight"]
    # layers.1 must not take in layers.10 and on.
    assert checkpoint.names_below("model.layers.") == []


def test_a_tensor_that_is_not_there_is_named(donor: Path) -> None:
    checkpoint = Checkpoint("my-donor", donor)
    assert not checkpoint.has("nothing.weight")
    with pytest.raises(ModelError, match=r"my-donor: tensor nothing\.weight is missing"):
        checkpoint.tensor("nothing.weight")


def test_the_hash_changes_with_the_weights(donor: Path) -> None:
    before = Checkpoint("donor", donor).sha256
    assert list(before) == [SINGLE]
    data = bytearray((donor / SINGLE).read_bytes())
    data[-1] ^= 1
    (donor / SINGLE).write_bytes(data)
    assert Checkpoint("donor", donor).sha256 != before


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("./nowhere", ["there is no such folder", "correct the path"]),
        ("/nowhere/at/all", ["there is no such folder"]),
        ("a/b/c", ["there is no such folder"]),
        ("no body", ["neither a folder nor a hub id"]),
        ("nobody/has-this", ["nobody/has-this", "name a folder"]),
    ],
)
def test_a_model_that_cannot_be_found_is_one_line(where: str, words: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        open_model(where)
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line


def test_a_folder_is_used_in_place(donor: Path) -> None:
    assert model_folder(str(donor)) == donor
    assert open_model(str(donor)).n_layers == 6


def test_the_plan_takes_every_tensor_once_in_the_order_of_the_model(tiny_pair: Path) -> None:
    from optlayers.layerset import LayerSet

    base = Checkpoint("base", tiny_pair / "base")
    theirs = Checkpoint("donor", tiny_pair / "donor")
    pieces = plan_pieces(Parents(base, (theirs,)), LayerSet.of(2, 4))
    names = [piece.name for piece in pieces]
    assert len(set(names)) == len(names)
    assert names[0] == "model.embed_tokens.weight"
    assert names[-2:] == ["model.norm.weight", "lm_head.weight"]
    for piece in pieces:
        layer = piece.name.removeprefix("model.layers.").partition(".")[0]
        assert piece.source is (theirs if layer in ("2", "4") else base), piece.name


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_layer": "six"}, "n_layer is 'six'; it is a whole number"),
        ({"d_model": 0}, "d_model is 0; it is a whole number"),
        ({"ssm_cfg": "small"}, "config.json"),
    ],
)
def test_a_llamba_config_that_makes_no_sense_is_one_line(
    tiny_pair: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    folder = Path(shutil.copytree(tiny_pair / "base", tmp_path / "base"))
    config(folder, **changes)
    with pytest.raises(ModelError, match=words) as caught:
        Checkpoint("my-base", folder)
    assert "\n" not in str(caught.value)
