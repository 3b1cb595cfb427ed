"""The device and dtype to run on, and how many tokens a batch should hold there."""

from __future__ import annotations

import torch

from optlayers.errors import InputError
from optlayers.inference.stack import LayerStack

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

GPU_TOKENS = 8_192
# On a CPU the widest activation of a batch should fit into the cache of a core.
CACHE_BYTES = 2_097_152
CPU_TOKENS = (512, 2_048)


def pick_device(name: str | None) -> torch.device:
    """The device of that name (default: the first GPU, or the CPU); raises `InputError`."""
    if name is None:
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device {name!r}: write cpu, cuda or cuda:0") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {name!r}: this machine has no usable NVIDIA GPU; use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {name!r}: this machine has {torch.cuda.device_count()} GPUs, counted from 0"
        )
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r}: write cpu, cuda or cuda:0")
    return device


def pick_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The dtype of that name (default: float32 on the CPU, bfloat16 on a GPU)."""
    if name is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in DTYPES:
        raise InputError(f"dtype {name!r}: choose one of {', '.join(DTYPES)}")
    return DTYPES[name]


def default_budget(stack: LayerStack, device: torch.device) -> int:
    """Tokens per batch; the engine lowers it where a batch does not fit into memory.

    On a GPU sizes from 4,096 to 65,536 differ by less than noise (benchmarks/worth.md). On a CPU a
    batch is large enough to make calls cheap, but small enough for the cache, in which `NarrowOps`
    keeps two activations.
    """
    if device.type == "cuda":
        return GPU_TOKENS
    weights = [p for side in stack.sides for p in side.layers[0].parameters() if p.dim() == 2]
    widest = max((max(p.shape) * p.element_size() for p in weights), default=1)
    widest *= 2 if stack.narrow_ops else 1
    return min(CPU_TOKENS[1], max(CPU_TOKENS[0], CACHE_BYTES // widest))
