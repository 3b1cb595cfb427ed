"""The device and dtype to run on, and how many tokens a batch should hold there."""

from __future__ import annotations

import logging

import torch

from optlayers.errors import InputError
from optlayers.inference.packed import PackedBatch
from optlayers.inference.stack import LayerStack

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

FALLBACK = 8_192
SIZES = (4_096, 8_192, 16_384, 32_768)
LENGTH = 128  # tokens per sequence while measuring
WITHIN = 0.02  # a larger batch must gain more than this share

# On a CPU the widest activation of a batch should fit into the cache of a core.
CACHE_BYTES = 2_097_152
CPU_SIZES = (512, 2_048)


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


def _cpu_budget(stack: LayerStack) -> int:
    """Tokens per batch on a CPU, whose clocks vary too much to measure.

    Enough to make calls cheap, but within the cache; `NarrowOps` keeps two activations in it.
    """
    weights = [p for side in stack.sides for p in side.layers[0].parameters() if p.dim() == 2]
    widest = max((max(p.shape) * p.element_size() for p in weights), default=1)
    widest *= 2 if stack.narrow_ops else 1
    return min(CPU_SIZES[1], max(CPU_SIZES[0], CACHE_BYTES // widest))


@torch.inference_mode()
def tuned_budget(stack: LayerStack, device: torch.device) -> int:
    """Tokens per batch: on a GPU the smallest size whose rate is within 2 % of the best.

    Measured for a fraction of a second on one layer of each parent. A size is not tried if one
    state for each layer would not fit into half of the free memory.
    """
    if device.type != "cuda":
        return _cpu_budget(stack)
    if not stack.fused:
        return FALLBACK
    rates: dict[int, float] = {}
    for size in SIZES:
        width = int(stack.sides[0].config.hidden_size)
        open_states = size * width * stack.n_layers * 2
        if open_states > torch.cuda.mem_get_info(device)[0] // 2:
            break
        try:
            batch = PackedBatch.of([([0] * LENGTH, 0, -1) for _ in range(size // LENGTH)], device)
            h = torch.randn_like(stack.begin_packed(batch))
            rates[size] = size / min(_seconds(stack, h, batch) for _ in range(3))
        except torch.cuda.OutOfMemoryError:
            break
        finally:
            torch.cuda.empty_cache()
    best = max(rates.values(), default=0.0)
    chosen = next((s for s, rate in rates.items() if rate >= (1 - WITHIN) * best), SIZES[0])
    logger.info("batches of %d tokens", chosen)
    return chosen


def _seconds(stack: LayerStack, h: torch.Tensor, batch: PackedBatch) -> float:
    """Seconds for one layer of base and first donor."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    for side in (False, True):
        stack.run_packed(0, side, h, batch)
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000
