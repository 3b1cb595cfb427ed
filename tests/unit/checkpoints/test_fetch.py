"""Free space for downloads."""

from __future__ import annotations

from pathlib import Path

import pytest

from optlayers.checkpoints import fetch
from optlayers.checkpoints.modelscope import missing_bytes
from optlayers.errors import ModelError


def test_only_missing_bytes_count(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(bytes(10))
    (tmp_path / "b.safetensors").write_bytes(bytes(4))  # broke off
    sizes = {"a.safetensors": 10, "b.safetensors": 10, "c.safetensors": 10, "d.bin": 1000}
    files = ["a.safetensors", "b.safetensors", "c.safetensors"]
    assert missing_bytes(tmp_path, files, sizes) == 6 + 10


def test_too_little_space_is_one_line_with_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "free_bytes", lambda folder: 16_400_000_000)
    fetch.check_space("org/base", 0, tmp_path)
    fetch.check_space("org/base", 15_800_000_000, tmp_path)
    with pytest.raises(ModelError) as caught:
        fetch.check_space("org/base", 16_000_000_000, tmp_path, "OPTLAYERS_MODELS")
    assert str(caught.value) == (
        "model org/base: 16.0 GB are to be fetched and 16.4 GB are free; free some space, or name "
        "a folder on another disk with OPTLAYERS_MODELS"
    )
