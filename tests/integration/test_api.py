"""The Python API: its examples run, and every public name exists."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import optlayers
from optlayers import api


def test_the_examples_of_the_docstrings_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the default storage is a file in the working directory
    done = doctest.testmod(api, extraglobs={"optlayers": optlayers})
    assert done.attempted > 10
    assert not done.failed


def test_every_public_name_is_there_and_no_other() -> None:
    for name in optlayers.__all__:
        assert getattr(optlayers, name) is not None
        assert name in dir(optlayers)
    with pytest.raises(AttributeError, match="no attribute 'search_studdy'"):
        _ = optlayers.search_studdy


def test_an_assembled_hybrid_is_the_exported_one(tiny_study: Path, tmp_path: Path) -> None:
    import torch

    from optlayers.checkpoints.parents import open_parents
    from optlayers.checkpoints.tokenizer import tokenizer_folder
    from optlayers.checkpoints.writer import CheckpointWriter
    from optlayers.models import HybridForCausalLM

    definition = optlayers.load_study(str(tiny_study))
    parents = open_parents(definition)
    layers = optlayers.LayerSet.of(1, 4)
    CheckpointWriter(parents, tokenizer_folder(definition)).write(layers, tmp_path / "out")
    written = HybridForCausalLM.from_pretrained(tmp_path / "out").eval()
    ours = optlayers.load_hybrid(tiny_study, "1,4", device="cpu")
    tokens = torch.arange(1, 40)[None]
    assert not ours.training
    assert torch.equal(ours(tokens).logits, written(tokens).logits)


def test_layers_that_are_not_there_are_refused(tiny_study: Path) -> None:
    with pytest.raises(optlayers.InputError, match="an index is 0 to 5"):
        optlayers.load_hybrid(tiny_study, [9], device="cpu")
