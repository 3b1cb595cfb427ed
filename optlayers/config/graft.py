"""Graft: what a chosen layer takes from its donor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from optlayers.errors import InputError
from optlayers.layerset import ONE, Donors, LayerSet, LayerSpace

Swap = Literal["layer", "mixer", "mlp"]
# A donor's index for each layer of the base; None: the same.
Map = tuple[int, ...] | None


@dataclass(frozen=True)
class Graft:
    """What is swapped, and which donor layer replaces which base layer.

    swap: the whole decoder layer, only the mixer with its norms, or only the MLP with its norms.
    maps, donors: of each donor, its map and its name. Methods take a donor's place in them.
    """

    swap: Swap = "layer"
    maps: tuple[Map, ...] = (None,)
    donors: Donors = ONE

    def space(self, n_layers: int | None = None) -> LayerSpace:
        """All layer sets of these donors."""
        return LayerSpace(n_layers, donors=self.donors)

    def source(self, layer: int, donor: int = 0) -> int:
        """The index of the donor's layer that replaces a layer of the base."""
        known = self.maps[donor]
        return layer if known is None else known[layer]

    def check(self, base: int, depth: int, donor: int = 0) -> None:
        """Raise `InputError` unless the donor's map fits models of that many layers."""
        known = self.maps[donor]
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
        """The layers that a donor gives to a set (of None: to any set; returns None for all)."""
        known = self.maps[donor]
        if layers is None:
            return None if known is None else LayerSet(known)
        mine = [i for i, giver in self.space().origins(layers).items() if giver == donor]
        if known is not None:
            # Layers beyond the map are refused later, where the depth of the base is known.
            mine = [known[i] for i in mine if i < len(known)]
        return LayerSet(tuple(mine))

    @property
    def parts(self) -> str:
        """What is swapped, in words."""
        return {"layer": "layers", "mixer": "mixers", "mlp": "MLPs"}[self.swap]

    def order(self, layers: LayerSet) -> str:
        """Which layers of the donor a layer set takes, in words."""
        if self.maps[0] is None:
            return "index for index"
        shown = ", ".join(str(self.source(i)) for i in layers)
        return f"where they have the indices {shown}" if shown else "by a map of indices"


WHOLE = Graft()
