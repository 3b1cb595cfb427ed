"""Where checkpoints appear: room for all of them, links, and what killed exports left there."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.plan import Shelf
from optlayers.checkpoints.target import can_link, partial_folder
from optlayers.checkpoints.writer import SPARE_BYTES, check_room
from optlayers.errors import ExportError, InputError
from optlayers.layerset import LayerSet
from tests.helpers.tiny import export

SETS = [LayerSet.of(1, 4), LayerSet.of(1, 5), LayerSet.of(2)]


def weights(folders: list[Path]) -> int:
    """Bytes of weights in some folders, a file that several have counted once."""
    files = {p.stat().st_ino: p for folder in folders for p in folder.glob("*.safetensors")}
    return sum(path.stat().st_size for path in files.values())


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize("linked", [False, True], ids=["plain", "linked"])
def test_room_for_all_is_asked_for_before_the_first(
    tiny_parents: Parents,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    linked: bool,
    dtype: str | None,
) -> None:
    shelf, used = (Shelf(), Shelf()) if linked else (None, None)
    outs = [tmp_path / "whole" / str(layers) for layers in SETS]
    for out, layers in zip(outs, SETS, strict=True):
        export(tiny_parents, layers, out, dtype=dtype, shelf=used)
    need = weights(outs) + 3 * SPARE_BYTES
    targets = [tmp_path / "exports" / str(layers) for layers in SETS]

    def check(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
        check_room(tiny_parents, SETS, targets, dtype=dtype, shelf=shelf)

    check(need)  # the headers of the files are counted with the rest
    with pytest.raises(ExportError) as caught:
        check(need - 150_000)
    said = str(caught.value)
    assert "0.15 GB are needed for 3 checkpoints and 0.15 GB are free; free some space" in said
    assert said.endswith("--top" if linked else "--top, or equal layers once with --link")
    assert not (tmp_path / "exports").exists()


def test_an_unknown_dtype_is_refused_before_room_is_looked_for(
    tiny_parents: Parents, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="--dtype 'int4': choose one of float32, bfloat16"):
        check_room(tiny_parents, SETS[:1], [tmp_path / "out"], dtype="int4")


def test_links_are_tried_where_the_folders_will_be(tmp_path: Path) -> None:
    assert can_link(tmp_path / "not" / "yet")
    assert not can_link(Path("/proc/self"))
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys
from pathlib import Path
from optlayers.checkpoints.target import partial_folder
with partial_folder(Path(sys.argv[1])) as folder:
    (folder / "weights").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_leftovers_of_the_dead_are_swept_and_those_of_the_living_stay(
    tiny_parents: Parents, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    start = f".out.partial-{socket.gethostname()}-"
    # Numbers are given again: to others that live, and in containers to the next export itself.
    left = [tmp_path / f"{start}{pid}" for pid in (os.getpid(), os.getppid())]
    left.append(tmp_path / f".out.partial-elsewhere-{os.getppid()}")
    for folder in left:
        folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as living:
        assert living.stdout is not None
        held = Path(living.stdout.readline().decode().strip())
        export(tiny_parents, SETS[0], out)
        assert [folder.exists() for folder in (*left, held)] == [False, False, True, True]
        assert (held / "weights").is_file()
        living.kill()
    shutil.rmtree(out)
    export(tiny_parents, SETS[0], out)
    assert not held.exists()


def test_a_partial_folder_goes_with_what_broke(tmp_path: Path) -> None:
    def write() -> None:
        with partial_folder(tmp_path / "deep" / "out") as folder:
            (folder / "weights").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert list((tmp_path / "deep").iterdir()) == []


FULL = """
import os, sys
from pathlib import Path
from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import Checkpoint
from optlayers.checkpoints.writer import export_hybrid
from optlayers.errors import ExportError
from optlayers.layerset import LayerSet
pair, disk = map(Path, sys.argv[1:])
base, donor = (Checkpoint(name, pair / name) for name in ("base", "donor"))
def fill(done, total):
    if done > total / 2 and not (disk / "other").exists():
        with open(disk / "other", "wb", buffering=0) as stream:
            try:
                while stream.write(bytes(4096)):
                    pass
            except OSError:
                pass
try:
    export_hybrid(Parents(base, (donor,)), LayerSet.of(1, 4), disk / "out", donor.folder, {}, fill)
except ExportError as error:
    print(error)
print(sorted(os.listdir(disk)))
"""


def test_a_disk_that_fills_up_in_mid_write_leaves_nothing(tiny_pair: Path, tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=60m optlayers "$1"'
    own = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if (
        not shutil.which("unshare")
        or subprocess.run(
            [*own, mount, "sh", str(tmp_path)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("no file system can be mounted here")
    run = f'{mount} && exec "$2" -c "$3" "$4" "$1"'
    arguments = ["sh", str(tmp_path), sys.executable, FULL, str(tiny_pair)]
    done = subprocess.run(
        [*own, run, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    said, listed = done.stdout.splitlines()
    assert "No space left on device" in said
    assert "nothing was left behind" in said
    assert listed == "['other']"
