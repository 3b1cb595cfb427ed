"""Graft: what a layer that is chosen takes from the donor, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from optlayers.errors import InputError

Swap = Literal["layer", "mixer", "mlp"]


@dataclass(frozen=True)
class Graft:
    """What is swapped, and which donor layer stands for which base layer.

    swap: the whole decoder layer, only the mixer with its norms, or only the MLP with its norms.
    donor_map: the donor's index for each base index (None: the same).
    """

    swap: Swap = "layer"
    donor_map: tuple[int, ...] | None = None

    def source(self, layer: int) -> int:
        """The donor's index of what a base layer is swapped for."""
        return layer if self.donor_map is None else self.donor_map[layer]

    def check(self, base: int, donor: int) -> None:
        """Raise `InputError` unless the map fits models of those numbers of layers."""
        if self.donor_map is None:
            return
        if len(self.donor_map) != base:
            raise InputError(
                f"donor_map: {len(self.donor_map)} indices, and the base has {base} layers; give "
                "one for each"
            )
        if max(self.donor_map) >= donor:
            raise InputError(
                f"donor_map: {max(self.donor_map)}, and the donor has {donor} layers, so an index "
                f"is 0 to {donor - 1}"
            )

    def __str__(self) -> str:
        """What is swapped, for people: `layers`, `mixers` or `MLPs`."""
        return {"layer": "layers", "mixer": "mixers", "mlp": "MLPs"}[self.swap]


WHOLE = Graft()
