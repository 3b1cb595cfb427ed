"""A checkpoint at size: export, reload where optlayers is not, generate, and equal logits.

    python -m benchmarks.checkpoints.checkpoint --shape llamba-8b --dir /scratch \
        --out benchmarks/checkpoints

Base and donor have random weights in the published formats and shard sizes (8B: 16 GB each), so
nothing is downloaded; 48 GB must be free in --dir, and are free again afterwards. It needs torch,
transformers, safetensors and tokenizers, and saves what it has measured at every step. The
export's rate stands beside that of a plain copy of the same disk, each onto the disk (fsync).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib import program
from benchmarks.lib.random_pair import SHAPES, make_pair, pair_bytes

BATCH, PROMPT, NEW = 8, 64, 50

STRANGER = """
import sys; sys.modules["optlayers"] = None
import importlib.util, json, time, torch
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, device, dtype, new, out = json.loads(sys.argv[1])
gpu = device.startswith("cuda")
def wait():
    if gpu: torch.cuda.synchronize()
where = {"device_map": device} if importlib.util.find_spec("accelerate") else {}
start = time.perf_counter()
model = AutoModelForCausalLM.from_pretrained(
    folder, trust_remote_code=True, dtype=getattr(torch, dtype), **where).to(device).eval()
AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
wait()
found = {"load": time.perf_counter() - start, "module": type(model).__module__}
tokens = torch.load(out + ".tokens", weights_only=True).to(device)
with torch.inference_mode():
    torch.save(model(tokens).logits.cpu(), out)
mask = torch.ones_like(tokens)
for row in range(len(tokens)):  # prompts of several lengths, padded on the left
    mask[row, : 3 * row] = 0
def generate(count):
    start = time.perf_counter()
    made = model.generate(input_ids=tokens, attention_mask=mask, max_new_tokens=count,
                          min_new_tokens=count, do_sample=False)
    wait()
    assert made.shape[1] == tokens.shape[1] + count
    return time.perf_counter() - start, made
if new:
    generate(2)
    found["first"], _ = generate(1)
    found["whole"], made = generate(new)
    mask = torch.cat([mask, torch.ones_like(made[:, tokens.shape[1]:])], 1)
    with torch.inference_mode():
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        whole = model(made, attention_mask=mask, position_ids=places, logits_to_keep=new + 1)
        whole = whole.logits[:, :-1]
        # No stop token was allowed, so none may be the best here either.
        ends = model.generation_config.eos_token_id
        whole[..., ends if ends is not None else []] = -torch.inf
        found["same"] = float((whole.argmax(-1) == made[:, -new:]).float().mean())
lines = Path("/proc/self/status").read_text().splitlines()
found["peak"] = torch.cuda.max_memory_allocated() if gpu else next(
    int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM:"))
print("\\nFOUND " + json.dumps(found))
"""


def copy_rate(source: Path, target: Path) -> float:
    """Bytes a second of a plain copy of a file, onto the disk."""
    start = time.perf_counter()
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 16_000_000)
        writer.flush()
        os.fsync(writer.fileno())
    took = time.perf_counter() - start
    target.unlink()
    return source.stat().st_size / took


def peak_memory() -> int:
    """The most memory that this process has had, in bytes (what getrusage says is its parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM:"))


def largest_file(folder: Path) -> Path:
    return max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)


def export(work: Path, layers: str) -> dict[str, float]:
    """Export as the command does, less the model card; seconds, bytes and the most memory."""
    from optlayers.checkpoints.card import hash_ahead
    from optlayers.checkpoints.parents import Parents
    from optlayers.checkpoints.reader import Checkpoint
    from optlayers.checkpoints.writer import CheckpointWriter
    from optlayers.layerset import LayerSet

    base, donor = (Checkpoint(name, work / name) for name in ("base", "donor"))
    before = peak_memory()
    total = 0

    def progress(done: int, whole: int) -> None:
        nonlocal total
        total = whole

    start = time.perf_counter()
    wait = hash_ahead(base, donor)

    def documents(files: Mapping[str, str]) -> dict[str, str]:
        wait()
        return {"sources.json": json.dumps({"base": base.sha256, "donor": donor.sha256})}

    chosen = LayerSet.parse(layers, base.n_layers)
    writer = CheckpointWriter(Parents(base, (donor,)), work / "donor")
    writer.write(chosen, work / "hybrid", documents, progress)
    took = time.perf_counter() - start
    return {"seconds": took, "bytes": total, "peak": peak_memory(), "before": before}


def stack_logits(
    work: Path, layers: str, tokens: torch.Tensor, device: str, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [B, T, V] of the search's stack, plain and packed, on the CPU."""
    from optlayers.checkpoints.parents import Parents
    from optlayers.checkpoints.reader import Checkpoint
    from optlayers.inference.packed import PackedBatch
    from optlayers.inference.stack import LayerStack
    from optlayers.layerset import LayerSet

    base, donor = (Checkpoint(name, work / name) for name in ("base", "donor"))
    stack = LayerStack.load(Parents(base, (donor,)), torch.device(device), dtype)
    chosen = LayerSet.parse(layers, stack.n_layers)
    with torch.inference_mode():
        h, inputs = stack.begin(tokens.to(device))
        for layer in range(stack.n_layers):
            h = stack.run(layer, layer in chosen, h, inputs)
        plain = stack.logits(h).cpu()
        parts = [(row.tolist(), 0, -1) for row in tokens]
        batch = PackedBatch.of(parts, torch.device(device))
        h = stack.begin_packed(batch)
        for layer in range(stack.n_layers):
            h = stack.run_packed(layer, layer in chosen, h, batch)
        packed = stack.logits(h).reshape(plain.shape).cpu()
    return plain, packed


def stranger(
    work: Path, device: str, dtype: str, tokens: torch.Tensor, new: int = NEW
) -> tuple[Any, torch.Tensor]:
    """What a process without optlayers measures on the folder, and its logits of the tokens."""
    out = str(work / "logits.pt")
    torch.save(tokens, out + ".tokens")
    question = json.dumps([str(work / "hybrid"), device, dtype, new, out])
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(work / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, question],
        cwd=work,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit("the process without optlayers failed")
    line = next(x for x in done.stdout.splitlines() if x.startswith("FOUND "))
    return json.loads(line.removeprefix("FOUND ")), torch.load(out, weights_only=True)


def child(work: Path, layers: str) -> dict[str, float]:
    """`export` in a process of its own, so that its memory is its own."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.checkpoints.checkpoint",
            "--export-in",
            str(work.resolve()),
            "--layers",
            layers,
        ],
        cwd=program.ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def distance(a: torch.Tensor, b: torch.Tensor) -> str:
    """How far two sets of logits [B, T, V] are apart, and how often they choose one token."""
    same = float((a.argmax(-1) == b.argmax(-1)).float().mean())
    if torch.equal(a, b):
        return "equal to the last bit"
    off = float((a.float() - b.float()).norm() / b.float().norm())
    return f"relative distance {off:.1e}, the same best token at {100 * same:.1f} % of positions"


def run(args: argparse.Namespace, work: Path, table: program.Rows) -> None:
    """Everything, in the order in which it can fail."""
    gpu = args.device.startswith("cuda")
    dtype = args.dtype or ("bfloat16" if gpu else "float32")
    on = torch.cuda.get_device_name() if gpu else platform.processor() or "CPU"
    table.note(
        "machine", f"{on}, torch {torch.__version__}, transformers {version('transformers')}"
    )
    need, free = 3 * pair_bytes(args.shape, dtype) // 2, shutil.disk_usage(work).free
    table.say(f"{work}: {need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")
    if free < need:
        raise SystemExit("too little room; name a larger disk with --dir")
    start = time.perf_counter()
    total = make_pair(work, args.shape, args.device, dtype, table.say)
    os.sync()  # the times below are not for what is still to be written of this
    took = time.perf_counter() - start
    table.note(
        "base and donor, random",
        f"{total / 1e9:.2f} GB of {dtype}, made and written in {took:.0f} s",
    )
    if gpu:
        torch.cuda.empty_cache()
    rate = copy_rate(largest_file(work / "base"), work / "copy")
    table.note("plain copy of one file", f"{rate / 1e6:.0f} MB/s")
    found = child(work, args.layers)
    mine = found["bytes"] / found["seconds"]
    table.note(
        f"export, layers {args.layers}",
        f"{found['bytes'] / 1e9:.2f} GB in {found['seconds']:.1f} s, "
        f"{mine / 1e6:.0f} MB/s with the SHA-256 of all sources, "
        f"{mine / rate:.2f} of the plain copy",
    )
    table.note(
        "memory of the export",
        f"{found['peak'] / 1e6:.0f} MB at the peak, of which "
        f"{found['before'] / 1e6:.0f} MB before it began (Python and its libraries)",
    )
    if args.export_only:
        return
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(4, SHAPES[args.shape][5], (BATCH, PROMPT), generator=generator)
    seen, logits = stranger(work, args.device, dtype, tokens)
    each = (seen["whole"] - seen["first"]) / (NEW - 1)
    assert seen["module"].startswith("transformers_modules."), seen["module"]
    assert bool(logits.isfinite().all())
    table.note("load without optlayers", f"{seen['load']:.1f} s")
    table.note(
        f"generate {NEW} tokens, batch {BATCH}, prompts of {PROMPT}",
        f"{seen['whole']:.2f} s, {BATCH * NEW / seen['whole']:.0f} tokens/s; first token "
        f"{seen['first']:.3f} s, then {each * 1e3:.1f} ms each",
    )
    table.note(
        "tokens that the full forward pass chooses too, of those generated with the cache",
        f"{100 * seen['same']:.1f} %",
    )
    table.note(
        "peak memory of loading and generating" + (" on the GPU" if gpu else ""),
        f"{seen['peak'] / 1e9:.2f} GB",
    )
    plain, packed = stack_logits(work, args.layers, tokens, args.device, getattr(torch, dtype))
    fused = " and fused" if gpu else ""
    table.note("logits against the search's layers, padded", distance(plain, logits))
    table.note(f"logits against the search's layers, packed{fused}", distance(packed, logits))
    if dtype == "float32":
        return
    for parent in ("base", "donor"):
        shutil.rmtree(work / parent)
    if gpu:
        torch.cuda.empty_cache()
    _, exact = stranger(work, args.device, "float32", tokens, new=0)
    table.note(f"rounding: {dtype} against float32, the checkpoint", distance(logits, exact))
    table.note(
        f"rounding: {dtype} against float32, the search's layers, packed{fused}",
        distance(packed, exact),
    )


def main() -> None:
    """Measure, print, save."""
    parser = program.parser(__doc__)
    parser.add_argument("--shape", default="demo", choices=sorted(SHAPES))
    parser.add_argument("--dir", type=Path, help="where the models go (default: /tmp or the like)")
    parser.add_argument("--export-only", action="store_true", help="neither load nor generate")
    parser.add_argument("--layers", default="2,5,11")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", help="default: bfloat16 on a GPU, float32 on a CPU")
    parser.add_argument("--export-in", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.export_in:
        print(json.dumps(export(args.export_in, args.layers)))
        return
    if args.dir is not None:
        args.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-checkpoint-", dir=args.dir) as work:
        stem = f"checkpoint-{args.shape}-{'gpu' if args.device.startswith('cuda') else 'cpu'}"
        made = program.made_by(__file__, *program.given_arguments())
        table = program.Rows(args.out, stem, made)
        run(args, Path(work), table)
        table.say("done")


if __name__ == "__main__":
    main()
