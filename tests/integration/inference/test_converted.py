"""Workers that share one converted copy of the weights, in processes of their own."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optlayers.inference.converted import FOLDER
from tests.helpers.converted import converted_files, demo_pair

# Loads the demo pair, says where its weights lie, and waits for a line.
LOAD = """
import json, sys
from pathlib import Path
import torch
from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import Checkpoint
from optlayers.inference.stack import LayerStack
folder, dtype = Path(sys.argv[1]), getattr(torch, sys.argv[2])
base, donor = (Checkpoint(name, folder / name) for name in ("base", "donor"))
said = []
stack = LayerStack.load(Parents(base, (donor,)), torch.device("cpu"), dtype, say=said.append)
spans = []
for line in open("/proc/self/maps"):
    parts = line.split()
    if len(parts) == 6 and parts[5].endswith(".safetensors"):
        first, last = (int(x, 16) for x in parts[0].split("-"))
        spans.append((first, last, parts[3] + " " + parts[4]))
modules = [side.layers[i] for side in stack.sides for i in range(stack.n_layers)]
modules += [stack.embedding, stack.norm, stack.head]
where, whole = set(), 0
for weight in (p for module in modules for p in module.state_dict().values()):
    at = weight.data_ptr()
    where.add(next((file for a, b, file in spans if a <= at < b), "a copy"))
    whole += weight.dim() == 2 and at % 64
total = sum(p.sum(dtype=torch.float64).item() for m in modules for p in m.state_dict().values())
print(json.dumps([sorted(where), said, total, whole]), flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def loading(dtype: str = "float32", count: int = 1) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that load the pair at once."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", LOAD, str(demo_pair()), dtype],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def told(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def test_four_workers_map_one_converted_copy_and_the_last_removes_it(store: Path) -> None:
    with loading(count=4) as processes:
        found = [told(process) for process in processes]
        assert len(converted_files(store)) == 2  # base and donor
        for files, said, total, unaligned in found:
            assert "a copy" not in files
            assert len(files) == 2  # the same two of one device and inode
            assert files == found[0][0]
            assert total == found[0][2]
            assert unaligned == 0
            assert said[0].endswith("mapped: one copy for all workers of this machine")
            assert said[0].startswith("0.02 GB of weights in float32, converted in ")
        assert sorted(text for _, said, *_ in found for text in said[1:]) == [
            "converting base to float32",
            "converting donor to float32",
        ]
        for process in processes[:-1]:
            process.communicate("\n", timeout=60)
            assert len(converted_files(store)) == 2
        processes[-1].communicate("\n", timeout=60)
        assert converted_files(store) == set()


def test_the_dtype_of_the_file_is_mapped_from_the_file_itself(store: Path) -> None:
    with loading("bfloat16") as (process,):
        files, said, _, _ = told(process)
        assert "a copy" not in files
        assert len(files) == 2
        assert said == [
            "0.01 GB of weights in bfloat16, in their files, mapped: one copy for all workers of "
            "this machine"
        ]
    assert not store.exists()


def test_files_of_a_killed_worker_are_used_and_then_removed(store: Path) -> None:
    with loading() as (process,):
        told(process)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=20)
    left = converted_files(store)
    assert len(left) == 2
    (store / "of-another-model.safetensors").write_bytes(b"stale")
    with loading() as (process,):
        _, said, _, _ = told(process)
        assert not any(text.startswith("converting") for text in said)
        assert converted_files(store) == left
        process.communicate("\n", timeout=60)
    assert converted_files(store) == set()


def copies(said: list[str], why: str) -> bool:
    """Whether the one line says that each worker has a copy, why, and what to do."""
    # First what was meant to be.
    assert said[0].endswith("mapped: one copy for all workers of this machine")
    (line,) = said[1:]
    return (
        line.startswith("0.02 GB of weights in float32, a copy in each worker instead (")
        and why in line
        and "set OPTLAYERS_MODELS to a folder on a larger disk" in line
        and "\n" not in line
    )


def test_without_a_folder_each_worker_has_a_copy(store: Path) -> None:
    store.parent.write_bytes(b"")
    with loading() as (process,):
        files, said, _, _ = told(process)
    assert files == ["a copy"]
    assert copies(said, "Not a directory")


def test_on_a_small_disk_each_worker_has_a_copy_and_nothing_is_left(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTLAYERS_MODELS", str(small_disk))
    with loading() as (process,):
        files, said, _, _ = told(process)
    assert files == ["a copy"]
    assert copies(said, "GB free and 0.02 are needed")
    assert converted_files(small_disk / FOLDER) == set()
