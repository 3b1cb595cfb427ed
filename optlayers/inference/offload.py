"""Layers on the device, or offloaded to pinned host memory and copied ahead of use.

An offloaded layer is one flat buffer in host memory. It is copied into one of a few slots on the
device, on a separate stream, while the device computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from optlayers.errors import ModelError
from optlayers.inference.flat import flat_size, flatten

GB = 10**9
RESERVE = 2 * GB  # for activations and open branches of the prefix tree
SLOTS = 2


@dataclass(frozen=True)
class Placement:
    """How many layers of base and each donor stay on the device; sizes in bytes."""

    resident: tuple[int, ...]
    n_layers: int
    weights: int
    free: int

    def __str__(self) -> str:
        size = f"{self.weights / GB:.1f} GB of weights, {self.free / GB:.1f} GB free"
        base, *donors = self.resident
        n, of = self.n_layers, self.n_layers * len(donors)
        if (base, sum(donors)) == (n, of):
            return f"{size}: all layers on the device"
        return (
            f"{size}: {base} of {n} base and {sum(donors)} of {of} donor layers "
            "on the device, the others copied from host memory ahead of use"
        )

    def stays(self, side: int, layer: int) -> bool:
        """Whether a layer stays on the device; offloaded layers are spread evenly."""
        away = self.n_layers - self.resident[side]
        return (layer + 1) * away // self.n_layers == layer * away // self.n_layers


def place(layer_bytes: tuple[int, ...], n_layers: int, ends: int, free: int) -> Placement:
    """Keep as many layers on the device as fit, base layers first, since most sets need them.

    layer_bytes: of one layer of base and each donor. ends: bytes of embedding, norm and head. free:
    bytes of the device. Raises `ModelError` where not even the slots fit.
    """
    base, *donors = layer_bytes
    every = sum(layer_bytes)
    weights = n_layers * every + ends
    room = free - ends - RESERVE
    if n_layers * every <= room:
        return Placement((n_layers,) * len(layer_bytes), n_layers, weights, free)
    left = room - SLOTS * sum(donors)
    if n_layers * base <= left:
        left -= n_layers * base
        resident = [n_layers]
        for donor in donors:
            resident.append(min(n_layers, left // donor))
            left -= resident[-1] * donor
        return Placement(tuple(resident), n_layers, weights, free)
    left -= SLOTS * base
    if left < 0:
        raise ModelError(
            f"the pair needs at least {(ends + RESERVE + SLOTS * every) / GB:.1f} GB of "
            f"device memory and {free / GB:.1f} GB are free; free some, or use a larger device"
        )
    return Placement((left // base, *(0 for _ in donors)), n_layers, weights, free)


@dataclass
class _Slot:
    """Memory on the device for one offloaded layer at a time."""

    module: nn.Module
    buffer: torch.Tensor
    kind: str
    holds: int = -1
    copied: Any = field(default_factory=lambda: torch.cuda.Event())  # type: ignore[no-untyped-call]
    used: Any = field(default_factory=lambda: torch.cuda.Event())  # type: ignore[no-untyped-call]


class Layers:
    """The layers of one parent, by index, on the device or offloaded."""

    def __init__(self, modules: Sequence[nn.Module] = ()) -> None:
        self._modules: list[nn.Module | None] = list(modules)
        self._host: dict[int, torch.Tensor] = {}
        self._kinds: dict[int, str] = {}
        self._slots: list[_Slot] = []
        self._stream: Any = None

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, layer: int) -> nn.Module:
        """The layer, on the device for work that is queued from now on."""
        module = self._modules[layer]
        if module is not None:
            return module
        self.prefetch([layer])
        slot = self._slot_of(layer)
        assert slot is not None  # prefetch has just filled one
        torch.cuda.current_stream().wait_event(slot.copied)
        return slot.module

    @property
    def offloaded(self) -> bool:
        """Whether any layer is offloaded."""
        return bool(self._host)

    def is_offloaded(self, layer: int) -> bool:
        """Whether a layer is offloaded."""
        return layer in self._host

    def append(self, module: nn.Module) -> None:
        """Add a layer that stays on its device."""
        self._modules.append(module)

    def append_offloaded(
        self,
        module: nn.Module,
        build: Callable[[], nn.Module],
        device: torch.device,
        layer_kind: str = "",
    ) -> None:
        """Add a layer to offload; build: makes one on the meta device, for a slot.

        Layers of one kind share slots.
        """
        kind = next(module.parameters()).dtype
        host = torch.empty(flat_size(module), dtype=kind, device="cpu", pin_memory=True)
        flatten(module, host)
        if not self._slots:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        if layer_kind not in self._kinds.values():
            for _ in range(SLOTS):
                buffer = torch.empty(len(host), dtype=kind, device=device)
                made = build()
                flatten(made, buffer, copy=False)
                for name, extra in module.named_buffers():
                    owner = made.get_submodule(name.rpartition(".")[0])
                    setattr(owner, name.rpartition(".")[2], extra.to(device))
                self._slots.append(_Slot(made.eval(), buffer, layer_kind))
        self._kinds[len(self._modules)] = layer_kind
        self._host[len(self._modules)] = host
        self._modules.append(None)

    def _slot_of(self, layer: int) -> _Slot | None:
        return next((slot for slot in self._slots if slot.holds == layer), None)

    def prefetch(self, wanted: Sequence[int]) -> None:
        """Start copying the layers needed next, in order, as many as there are slots."""
        wanted = [layer for layer in dict.fromkeys(wanted) if layer in self._host][:SLOTS]
        for layer in wanted:
            if self._slot_of(layer) is not None:
                continue
            kind = self._kinds[layer]
            slot = next(s for s in self._slots if s.kind == kind and s.holds not in wanted)
            slot.holds = layer
            self._stream.wait_event(slot.used)
            with torch.cuda.stream(self._stream):
                slot.buffer.copy_(self._host[layer], non_blocking=True)
                slot.copied.record(self._stream)

    def release(self, layer: int) -> None:
        """Mark the slot of a layer as free once the work queued so far is done."""
        slot = self._slot_of(layer) if self._host else None
        if slot is not None:
            slot.used.record(torch.cuda.current_stream())
