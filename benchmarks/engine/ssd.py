"""The SSD operation: the fused kernel against the torch form, its compiled form, and mamba-ssm.

    python -m benchmarks.engine.ssd --out benchmarks/engine

8,192 tokens in sequences of one length each, 32 heads of width 128, state 64, bfloat16, last states
written; from nothing, and from a given state. The fused kernel has its states from segments before,
so each sequence follows one of a single token, whose time counts. Milliseconds, medians. mamba-ssm
is measured where it is installed. Needs an NVIDIA GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.lib import program
from optlayers.inference.packed import PackedBatch
from optlayers.models.ssd import log_decay, ssd

HEADS, WIDTH, STATE, TOKENS = 32, 128, 64, 8192
LENGTHS = (64, 128, 256, 512, 1024)


def forms(length: int, count: int, begun: bool) -> dict[str, Callable[[], Any]]:
    """What is compared, on one set of random inputs; begun: sequences go on from a state."""
    from optlayers.inference.kernels import ssd_packed

    device = torch.device("cuda:0")
    inner, rest = HEADS * WIDTH, HEADS * STATE
    torch.manual_seed(0)

    def make(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=torch.bfloat16)

    before = count if begun else 0
    all_xbc = make(before + count * length, inner + 2 * rest)
    all_za = make(before + count * length, inner + HEADS)
    D = make(HEADS)
    parts = [([1], 0, -1)] * before
    parts += [([1] * length, int(begun), i if begun else -1) for i in range(count)]
    batch = PackedBatch.of(parts, device)
    batch.table[3] = torch.arange(before + count, device=device)
    states = torch.randn(before + count, HEADS, WIDTH, STATE, device=device)
    first = torch.randn(count, HEADS, WIDTH, STATE, device=device) if begun else None
    xbc, za = all_xbc[before:], all_za[before:]
    sizes = (HEADS, HEADS, WIDTH, STATE)
    x = xbc[:, :inner].reshape(count, length, HEADS, WIDTH)
    B = xbc[:, inner : inner + rest].reshape(count, length, HEADS, STATE)
    C = xbc[:, inner + rest :].reshape(count, length, HEADS, STATE)
    A_log = za[:, inner:].reshape(count, length, HEADS)
    torch.compiler.reset()  # or it gives up after a few shapes
    compiled = torch.compile(ssd)
    found: dict[str, Callable[[], Any]] = {
        "fused": lambda: ssd_packed(all_xbc, all_za, D, sizes, batch, states=states),
        "torch": lambda: ssd(x, A_log, B, C, D, first, return_state=True),
        "torch.compile": lambda: compiled(x, A_log, B, C, D, first, return_state=True),
    }
    try:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
    except ImportError:
        return found
    # Discrete form: dt = -log a, A = -1, and x divided by dt, since that kernel multiplies by it.
    dt = -log_decay(A_log)
    scaled = (x.float() / dt[..., None]).to(x.dtype)
    A = -torch.ones(HEADS, device=device)
    found["mamba-ssm"] = lambda: mamba_chunk_scan_combined(
        scaled, dt, A, B, C, chunk_size=128, D=D.float(), initial_states=first,
        return_final_states=True,
    )  # fmt: skip
    return found


def main() -> None:
    """Measure, print, save."""
    parser = program.parser(__doc__)
    args = parser.parse_args()
    from triton.testing import do_bench

    lines: list[str] = []
    rows = [
        (length, count, begun)
        for begun in (False, True)
        for length in LENGTHS
        for count in (1, TOKENS // length)
    ]
    for length, count, begun in rows:
        times = {
            name: do_bench(work, return_mode="median")
            for name, work in forms(length, count, begun).items()
        }
        if not lines:
            lines += [f"| sequences x tokens | {' | '.join(times)} |"]
            lines += ["|---|" + "---|" * len(times)]
        row = " | ".join(f"{ms:.3f}" for ms in times.values())
        lines.append(f"| {count} x {length}{', from a state' if begun else ''} | {row} |")
        print(lines[-1], flush=True)
    absent = "" if "mamba-ssm" in lines[0] else " mamba-ssm was not installed there."
    device = torch.cuda.get_device_name()
    head = f"# SSD, milliseconds\n\n{program.made_by(__file__)} on {device}."
    text = "\n".join(lines)
    program.save(args.out, "ssd.md", f"{head}{absent}\n\n{text}")


if __name__ == "__main__":
    main()
