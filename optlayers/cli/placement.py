"""Placement: which worker of a machine runs where, and with how many CPU threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optlayers.errors import InputError

MOST_ON_CPU = 8


@dataclass(frozen=True)
class Place:
    """Where one worker runs: its device, and its share of the CPU cores."""

    device: str
    threads: int


def visible_gpus() -> list[str]:
    """The GPUs that this process may use. torch is asked only where there may be one."""
    if not Path("/dev/nvidiactl").exists() and not Path("/proc/driver/nvidia").exists():
        return []
    import torch

    return [f"cuda:{i}" for i in range(torch.cuda.device_count())]


def cores() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parse_devices(text: str | None, gpus: Sequence[str]) -> list[str]:
    """`cuda:0,cuda:1`, `0,1`, `cuda` (all) or `cpu` as a list; None: all GPUs, or the CPU.

    Raises `InputError` for a GPU that is not there.
    """
    if text is None:
        return list(gpus) or ["cpu"]
    found: list[str] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        name = f"cuda:{part}" if part.isdecimal() else part
        if name.startswith("cuda") and not gpus:
            raise InputError(f"--devices names {name} and there is no GPU here; use --devices cpu")
        if name == "cuda":
            found += gpus
        elif name.startswith("cuda") and name not in gpus:
            raise InputError(f"--devices names {name} and there are {', '.join(gpus)}; name these")
        elif name == "cpu" or name in gpus:
            found.append(name)
        else:
            raise InputError(f"--devices names {name!r}; write cpu, or GPUs such as 0,1")
    if not found:
        raise InputError("--devices names no device; write for example cuda:0,cuda:1 or cpu")
    if len(set(found)) != len(found):
        raise InputError(f"--devices names one twice ({text}); use --per-device for several on one")
    if "cpu" in found and len(found) > 1:
        raise InputError(f"--devices is {text}; name GPUs or the CPU, not both")
    return found


def places(
    devices: Sequence[str], workers: int | None, per_device: int | None, n_cores: int
) -> list[Place]:
    """Where each of the workers goes; the cores are divided among them.

    One worker a GPU, several only with `per_device`; on a CPU one a core, at most
    `MOST_ON_CPU`. Raises `InputError` for more workers than the GPUs take.
    """
    on_cpu = devices[0] == "cpu"
    most = len(devices) * (per_device or 1)
    if workers is None:
        workers = min(n_cores, MOST_ON_CPU) if on_cpu and per_device is None else most
    elif workers > most and not on_cpu:
        needed = -(-workers // len(devices))
        raise InputError(
            f"--workers is {workers} and there is room for {most} on {', '.join(devices)}; add "
            f"--per-device {needed} to put several on one, where its memory holds them"
        )
    share, more = divmod(n_cores, workers)
    return [
        Place(devices[number % len(devices)], max(1, share + (number < more)))
        for number in range(workers)
    ]
