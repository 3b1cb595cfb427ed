from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import optlayers
import optlayers.models as models
from optlayers.checkpoints import writer
from optlayers.checkpoints.assembly import check_complete, hybrid_config, plan_pieces
from optlayers.checkpoints.info import checkpoint_info
from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import INDEX, SINGLE, Checkpoint
from optlayers.checkpoints.writer import CheckpointWriter
from optlayers.config.graft import WHOLE
from optlayers.config.study import load_study
from optlayers.errors import ExportError, InputError, ModelError
from optlayers.layerset import LayerSet
from tests.helpers.tiny import export, model_logits, stack_logits, tiny_llamba

LAYERS = LayerSet.of(1, 4)


def write(tiny_parents: Parents, out: Path, layers: LayerSet = LAYERS) -> Path:
    info = json.dumps({"layers": list(layers.indices)})
    return export(tiny_parents, layers, out, lambda _: {"checkpoint_info.json": info})


@pytest.fixture(scope="module")
def exported(tiny_parents: Parents, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tiny_parents, tmp_path_factory.mktemp("export") / "hybrid")


def test_an_export_loads_with_optlayers_and_without_trust(
    tiny_parents: Parents, exported: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(exported)
    assert isinstance(model, models.HybridForCausalLM)
    assert model.config.donor_layers == [1, 4]
    assert torch.equal(model_logits(exported), stack_logits(tiny_parents, LAYERS))


@pytest.mark.parametrize("layers", ["", "all"])
def test_no_layers_give_the_base_and_all_the_donor(
    tiny_parents: Parents, tmp_path: Path, layers: str
) -> None:
    parent = tiny_parents.donors[0] if layers else tiny_parents.base
    out = write(tiny_parents, tmp_path / "out", LayerSet.parse(layers, 6))
    assert torch.equal(model_logits(out), model_logits(parent.folder))


def test_the_folder_holds_the_files_of_a_model_folder(exported: Path, tiny_pair: Path) -> None:
    names = {path.name for path in exported.iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "checkpoint_info.json",
        "tokenizer.json",
        "tokenizer_config.json",
        SINGLE,
        *writer.MODELING,
    } <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    mine = AutoTokenizer.from_pretrained(exported)
    theirs = AutoTokenizer.from_pretrained(tiny_pair / "donor")
    text = "Question: which is the capital?\nAnswer: A"
    assert mine(text).input_ids == theirs(text).input_ids
    assert mine.eos_token == theirs.eos_token
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in exported.iterdir())
    assert list(exported.parent.iterdir()) == [exported]


def test_the_modeling_files_are_those_of_the_package(exported: Path) -> None:
    folder = Path(models.__file__).parent
    for file in writer.MODELING:
        assert (exported / file).read_bytes() == (folder / file).read_bytes()


def test_a_tied_base_is_exported_tied(tiny_parents: Parents, tmp_path: Path) -> None:
    tiny_llamba(tied=True).save_pretrained(tmp_path / "tied")
    tied = Parents(Checkpoint("tied", tmp_path / "tied"), tiny_parents.donors)
    out = write(tied, tmp_path / "out")
    model, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"]
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model_logits(out), stack_logits(tied, LAYERS))


def test_small_shards_have_an_index_that_loads(
    tiny_parents: Parents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SHARD_BYTES", 60_000)
    steps: list[tuple[int, int]] = []
    out = CheckpointWriter(tiny_parents, tiny_parents.donors[0].folder).write(
        LAYERS, tmp_path / "out", None, lambda done, total: steps.append((done, total))
    )
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((out / INDEX).read_text())
    assert set(index["weight_map"].values()) == set(files)
    assert torch.equal(model_logits(out), stack_logits(tiny_parents, LAYERS))
    total = index["metadata"]["total_size"]
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})
    assert steps[-1] == (total, total)
    # A tensor larger than a shard stands alone; every other shard keeps the limit.
    for file in files:
        tensors = [name for name, where in index["weight_map"].items() if where == file]
        size = (out / file).stat().st_size
        assert size < 70_000 or len(tensors) == 1


def test_a_target_that_exists_is_refused_and_left_alone(
    tiny_parents: Parents, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "nowhere").symlink_to("nothing")
    for name in ("out", "file", "link", "nowhere"):
        with pytest.raises(InputError, match=f"{name}: it exists already; choose another"):
            write(tiny_parents, tmp_path / name)
    assert (tmp_path / "out" / "mine.txt").read_text() == "precious"
    assert (tmp_path / "file").read_text() == "precious"


def test_an_empty_folder_is_filled(tiny_parents: Parents, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert (write(tiny_parents, tmp_path / "out") / SINGLE).is_file()


def test_a_layer_that_does_not_exist_is_refused(tiny_parents: Parents, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="layer 6: the models have 6 layers"):
        write(tiny_parents, tmp_path / "out", LayerSet.of(1, 6))
    assert not (tmp_path / "out").exists()


def test_too_little_space_says_how_much_is_needed(
    tiny_parents: Parents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(ExportError, match=r"0\.05 GB are needed and 0\.00 GB are free; free some"):
        write(tiny_parents, tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["file/out", "file/deep/out", "nowhere/out"])
def test_a_target_below_a_file_is_refused(
    tiny_parents: Parents, tmp_path: Path, where: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to("nothing")
    with pytest.raises(InputError, match=r"(file|nowhere)(/deep)? is not a folder|Not a directory"):
        write(tiny_parents, tmp_path / where)


@pytest.mark.parametrize("change", ["lost", "bent"])
def test_pieces_that_are_not_the_hybrids_are_refused(tiny_parents: Parents, change: str) -> None:
    pieces = plan_pieces(tiny_parents, LAYERS)
    config = hybrid_config(tiny_parents, LAYERS, WHOLE, torch.float32)
    check_complete(pieces, config, tiny_parents)
    name = "model.layers.1.self_attn.q_proj.weight"
    if change == "lost":
        pieces = [piece for piece in pieces if piece.name != name]
    else:
        config.donor_config["num_attention_heads"] = 8
        config.donor_config["head_dim"] = 8
    with pytest.raises(ModelError, match=f"the hybrid of base, donor: tensor {name}"):
        check_complete(pieces, config, tiny_parents)


def test_a_folder_without_a_tokenizer_leaves_nothing(tiny_parents: Parents, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="empty: cannot be loaded"):
        CheckpointWriter(tiny_parents, tmp_path / "empty").write(LAYERS, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_an_interrupted_export_leaves_nothing(
    tiny_parents: Parents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "copy_tokenizer", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tiny_parents, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_info_names_layers_score_models_hashes_and_versions(
    tiny_parents: Parents, tiny_study: Path
) -> None:
    definition = load_study(str(tiny_study))
    score = {"score": 0.5, "ci_low": 0.4, "ci_high": 0.6, "questions": 32}
    info = json.loads(json.dumps(checkpoint_info(definition, tiny_parents, LAYERS, score)))
    assert info["layers"] == [1, 4]
    assert info["n_layers"] == 2
    assert info["score"] == score
    assert info["study"]["name"] == "tiny"
    assert info["study"]["fingerprint"] == definition.fingerprint()
    assert [task["name"] for task in info["study"]["tasks"]] == ["demo"]
    for side, checkpoint in zip(("base", "donor"), tiny_parents.all, strict=True):
        assert info[side]["sha256"] == checkpoint.sha256
        assert len(info[side]["sha256"][SINGLE]) == 64
    assert info["versions"]["optlayers"] == optlayers.__version__
    assert info["versions"]["torch"] == importlib.metadata.version("torch")
    assert checkpoint_info(definition, tiny_parents, LAYERS, None)["score"] is None


def test_the_info_is_in_the_folder(exported: Path) -> None:
    assert json.loads((exported / "checkpoint_info.json").read_text()) == {"layers": [1, 4]}
