"""Graft: what a layer that is chosen takes from the donor, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from optlayers.errors import InputError
from optlayers.layerset import LayerSet

Swap = Literal["layer", "mixer", "mlp"]
Map = tuple[int, ...] | None


@dataclass(frozen=True)
class Graft:
    """What is swapped, and which donor layer stands for which base layer.

    swap: the whole decoder layer, only the mixer with its norms, or only the MLP with its norms.
    donor_map: the donor's index for each base index (None: the same). others: the maps of the
    donors after the first, where a study has several. A donor is named by its place.
    """

    swap: Swap = "layer"
    donor_map: Map = None
    others: tuple[Map, ...] = ()

    @property
    def n_donors(self) -> int:
        """How many donors there are."""
        return 1 + len(self.others)

    def map_of(self, donor: int) -> Map:
        """The map of one donor."""
        return (self.donor_map, *self.others)[donor]

    def source(self, layer: int, donor: int = 0) -> int:
        """The donor's index of what a base layer is swapped for."""
        known = self.map_of(donor)
        return layer if known is None else known[layer]

    def check(self, base: int, depth: int, donor: int = 0) -> None:
        """Raise `InputError` unless the map fits a base and a donor of those numbers of layers."""
        known = self.map_of(donor)
        if known is None:
            return
        if len(known) != base:
            raise InputError(
                f"donor_map: {len(known)} indices, and the base has {base} layers; give "
                "one for each"
            )
        if max(known) >= depth:
            raise InputError(
                f"donor_map: {max(known)}, and the donor has {depth} layers, so an index "
                f"is 0 to {depth - 1}"
            )

    def sources(self, layers: LayerSet | None, donor: int = 0) -> LayerSet | None:
        """The indices of what one donor gives to a layer set (None: all its layers may give)."""
        known = self.map_of(donor)
        if layers is None:
            return None if known is None else LayerSet(known)
        mine = [i for i, giver in layers.origins(self.n_donors).items() if giver == donor]
        if known is not None:
            # What the base does not have is refused where its depth is known.
            mine = [known[i] for i in mine if i < len(known)]
        return LayerSet(tuple(mine))

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
