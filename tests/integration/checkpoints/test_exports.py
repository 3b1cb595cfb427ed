"""Exports in processes: loaded without optlayers, killed half way, refused by a disk."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from optlayers.checkpoints import writer
from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.writer import CheckpointWriter
from optlayers.errors import ExportError
from optlayers.layerset import LayerSet
from tests.helpers.fresh import run_fresh
from tests.helpers.tiny import TOKENS, export, model_logits, stack_logits

LAYERS = LayerSet.of(1, 4)


# Run where optlayers cannot be imported: only what lies in the folder is used.
STANDALONE = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
tokens = torch.tensor(json.loads(sys.argv[2]))
with torch.inference_mode():
    logits = model(tokens).logits
torch.save(logits, sys.argv[3])
text = tokenizer("Question:", return_tensors="pt")
made = model.generate(**text, max_new_tokens=5, min_new_tokens=5, do_sample=False)
assert made.shape[1] == text.input_ids.shape[1] + 5
assert sys.modules["optlayers"] is None
print(type(model).__module__)
"""


@pytest.fixture(scope="module")
def exported(tiny_parents: Parents, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tiny_parents, LAYERS, tmp_path_factory.mktemp("export") / "hybrid")


def test_an_export_loads_and_generates_without_optlayers(
    tiny_parents: Parents, exported: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(exported, tmp_path / "elsewhere")
    # No path of this repository, and a cache of its own for the model's code.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    block = "import sys; sys.modules['optlayers'] = None\n"
    logits_file = tmp_path / "logits.pt"
    said = run_fresh(
        block + STANDALONE,
        folder,
        json.dumps(TOKENS),
        logits_file,
        cwd=tmp_path,
        env=environment,
    )
    assert said.startswith("transformers_modules.")
    logits = torch.load(logits_file, weights_only=True)
    assert torch.equal(logits, stack_logits(tiny_parents, LAYERS))


def in_a_process(run: Callable[[], object]) -> int | None:
    """Run in a forked process; its exit code (negative: the signal)."""
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    return process.exitcode


def test_a_disk_that_refuses_a_write_leaves_nothing(tiny_parents: Parents, tmp_path: Path) -> None:
    def run() -> None:
        # The largest file that the kernel lets this process write ends within the weights.
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        try:
            export(tiny_parents, LAYERS, tmp_path / "disk" / "out")
        except ExportError as error:
            (tmp_path / "said").write_text(str(error))

    assert in_a_process(run) == 0
    said = (tmp_path / "said").read_text()
    assert "\n" not in said
    assert "could not be written" in said
    assert "nothing was left behind" in said
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.parametrize("moment", ["_write_json", "copy_tokenizer", "write_tensors"])
def test_a_kill_half_way_leaves_nothing_that_looks_finished(
    tiny_parents: Parents,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(writer, moment, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        assert in_a_process(lambda: export(tiny_parents, LAYERS, out)) == -signal.SIGKILL
    assert not out.exists()
    left = [path.name for path in tmp_path.iterdir()]
    assert all(name.startswith(".out.partial-") for name in left)
    assert torch.equal(
        model_logits(export(tiny_parents, LAYERS, out)), stack_logits(tiny_parents, LAYERS)
    )


def test_a_kill_while_weights_are_written_leaves_nothing_finished(
    tiny_parents: Parents, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    begun = tmp_path / "begun"

    def slow(done: int, total: int) -> None:
        if done > total / 2:
            begun.touch()
            time.sleep(60)

    def run() -> None:
        tokenizer = tiny_parents.donors[0].folder
        CheckpointWriter(tiny_parents, tokenizer).write(LAYERS, out, None, slow)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    deadline = time.monotonic() + 60
    while not begun.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not out.exists()
    begun.unlink()
    export(tiny_parents, LAYERS, out)
    # The next export to the same folder removes what the killed one left.
    assert list(tmp_path.iterdir()) == [out]


HOLD = """
import sys
from pathlib import Path
from optlayers.checkpoints.target import partial_folder
with partial_folder(Path(sys.argv[1])) as folder:
    (folder / "weights").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_leftovers_are_removed_and_running_exports_stay(
    tiny_parents: Parents, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    start = f".out.partial-{socket.gethostname()}-"
    # Process numbers are reused, in containers even by the next export.
    left = [tmp_path / f"{start}{pid}" for pid in (os.getpid(), os.getppid())]
    left.append(tmp_path / f".out.partial-elsewhere-{os.getppid()}")
    for folder in left:
        folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as living:
        assert living.stdout is not None
        held = Path(living.stdout.readline().decode().strip())
        export(tiny_parents, LAYERS, out)
        assert [folder.exists() for folder in (*left, held)] == [False, False, True, True]
        assert (held / "weights").is_file()
        living.kill()
    shutil.rmtree(out)
    export(tiny_parents, LAYERS, out)
    assert not held.exists()


FULL = """
import os, sys
from pathlib import Path
from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import Checkpoint
from optlayers.checkpoints.writer import CheckpointWriter
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
    writer = CheckpointWriter(Parents(base, (donor,)), donor.folder)
    writer.write(LayerSet.of(1, 4), disk / "out", None, fill)
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


BIG = """
import sys
from pathlib import Path
from optlayers.checkpoints.tensorfile import read_header, write_tensors
source, target, dtype = sys.argv[1:]
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
before = peak()
entries = list(read_header(Path(source)).items())
write_tensors(Path(target), entries, dtype or None)
print(peak() - before)
"""


@pytest.mark.parametrize(("dtype", "most"), [("", 40_000_000), ("F32", 120_000_000)])
def test_memory_does_not_grow_with_the_tensors(tmp_path: Path, dtype: str, most: int) -> None:
    tensors = {str(i): torch.zeros(24_000_000, dtype=torch.bfloat16) for i in range(4)}
    save_file(tensors, tmp_path / "big.safetensors")
    arguments: list[str | Path] = [tmp_path / f"{name}.safetensors" for name in ("big", "out")]
    # 192 MB went through, in tensors of 48 MB, and in float32 twice as much came out.
    assert int(run_fresh(BIG, *arguments, dtype)) * 1024 < most
