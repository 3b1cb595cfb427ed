"""The target of exports: free space, hard links, partial folders."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.target import can_link, partial_folder
from optlayers.checkpoints.writer import SPARE_BYTES, CheckpointWriter
from optlayers.errors import ExportError, InputError
from optlayers.layerset import LayerSet

SETS = [LayerSet.of(1, 4), LayerSet.of(1, 5), LayerSet.of(2)]


def weights(folders: list[Path]) -> int:
    """Bytes of weights in some folders, a file that several have counted once."""
    files = {p.stat().st_ino: p for folder in folders for p in folder.glob("*.safetensors")}
    return sum(path.stat().st_size for path in files.values())


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize("linked", [False, True], ids=["plain", "linked"])
def test_space_for_all_exports_is_checked_before_the_first(
    tiny_parents: Parents,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    linked: bool,
    dtype: str | None,
) -> None:
    tokenizer = tiny_parents.donors[0].folder
    first, second = (
        CheckpointWriter(tiny_parents, tokenizer, dtype=dtype, link=linked) for _ in range(2)
    )
    outs = [tmp_path / "whole" / str(layers) for layers in SETS]
    for out, layers in zip(outs, SETS, strict=True):
        first.write(layers, out)
    need = weights(outs) + 3 * SPARE_BYTES
    targets = [tmp_path / "exports" / str(layers) for layers in SETS]

    def check(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
        second.check_space(SETS, targets)

    check(need)  # the headers of the files are counted with the rest
    with pytest.raises(ExportError) as caught:
        check(need - 150_000)
    said = str(caught.value)
    assert "0.15 GB are needed for 3 checkpoints and 0.15 GB are free; free some space" in said
    assert said.endswith("--top" if linked else "--top, or equal layers once with --link")
    assert not (tmp_path / "exports").exists()


def test_an_unknown_dtype_is_refused_at_once(tiny_parents: Parents, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--dtype 'int4': choose one of float32, bfloat16"):
        CheckpointWriter(tiny_parents, tmp_path, dtype="int4")


def test_hard_links_are_tried_in_the_nearest_folder(tmp_path: Path) -> None:
    assert can_link(tmp_path / "not" / "yet")
    assert not can_link(Path("/proc/self"))
    assert list(tmp_path.iterdir()) == []


def test_a_partial_folder_is_deleted_after_an_error(tmp_path: Path) -> None:
    def write() -> None:
        with partial_folder(tmp_path / "deep" / "out") as folder:
            (folder / "weights").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert list((tmp_path / "deep").iterdir()) == []
