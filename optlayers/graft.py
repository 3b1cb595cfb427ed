"""Graft: what a layer that is chosen takes from the donor, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from optlayers.errors import InputError
from optlayers.layerset import LayerSet

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

    def sources(self, layers: LayerSet | None) -> LayerSet | None:
        """The donor's indices of a layer set of the base (None: all)."""
        if self.donor_map is None:
            return layers
        if layers is None:
            return LayerSet(self.donor_map)
        # What the base does not have is refused where its depth is known.
        return LayerSet(tuple(self.source(i) for i in layers if i < len(self.donor_map)))

    @property
    def parts(self) -> str:
        """What is swapped, for people."""
        return {"layer": "layers", "mixer": "mixers", "mlp": "MLPs"}[self.swap]

    def order(self, layers: LayerSet) -> str:
        """Which of the donor's are taken for a layer set, for people."""
        if self.donor_map is None:
            return "index for index"
        shown = ", ".join(str(self.source(i)) for i in layers)
        return f"where they have the indices {shown}" if shown else "by a map of indices"


WHOLE = Graft()
