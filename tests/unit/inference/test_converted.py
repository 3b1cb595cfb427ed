"""Weights of another dtype: one converted, mapped copy for all processes of a machine."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import Checkpoint
from optlayers.inference import converted
from optlayers.inference.converted import Conversion, hold
from optlayers.inference.stack import LayerStack
from tests.helpers.converted import converted_files, demo_pair


def test_workers_that_end_together_leave_nothing(store: Path) -> None:
    base = Checkpoint("base", demo_pair() / "base")
    count = 4
    at_once = threading.Barrier(count)

    def work() -> None:
        held = contextlib.ExitStack()
        hold([Conversion(base, base.names()[:1], torch.float32)], lambda text: None, held)
        at_once.wait()
        held.close()

    for _ in range(25):
        workers = [threading.Thread(target=work) for _ in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert converted_files(store) == set()


def test_who_converts_deletes_what_others_could_not(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converted, "LOCK_SECONDS", 0.02)
    base = Checkpoint("base", demo_pair() / "base")
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    names = base.names()

    def meanwhile(text: str) -> None:
        first.close()

    hold([Conversion(base, names[:1], torch.float32)], lambda text: None, first)
    hold([Conversion(base, names[1:2], torch.float32)], meanwhile, second)
    assert len(converted_files(store)) == 2
    second.close()
    assert converted_files(store) == set()


def load(checkpoint: Checkpoint) -> Any:
    return LayerStack.load(Parents(checkpoint, (checkpoint,)), torch.device("cpu"), torch.float32)


def test_a_changed_source_is_converted_again(store: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = tmp_path / "base" / "model.safetensors"
    file.parent.mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "base" / name).write_bytes((demo_pair() / "base" / name).read_bytes())
    base = Checkpoint("base", tmp_path / "base")
    first = load(base)
    weights = {name: tensor + 1 for name, tensor in load_file(file).items()}
    save_file(weights, file)
    again = Checkpoint("base", tmp_path / "base")
    second = load(again)
    now = second.embedding.weight
    assert torch.equal(now, weights["backbone.embedding.weight"].float())
    assert not torch.equal(first.embedding.weight, now)
