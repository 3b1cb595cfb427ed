"""LayerSet: which layers of a hybrid come from the donor, as a value."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from optlayers.errors import InputError

BASE = "base"
DONOR = "donor"


def param_name(layer: int) -> str:
    """Name of the trial parameter of one layer, such as `layer_07`."""
    return f"layer_{layer:02d}"


@dataclass(frozen=True, order=True)
class LayerSet:
    """The sorted, distinct indices of the layers that a hybrid takes from the donor.

    Raises `InputError` for a negative index. `LayerSet(())` is the base itself.
    """

    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        tidy = tuple(sorted({int(i) for i in self.indices}))
        if tidy and tidy[0] < 0:
            raise InputError(f"layer {tidy[0]}: a layer index is 0 or more")
        object.__setattr__(self, "indices", tidy)

    @classmethod
    def of(cls, *indices: int) -> LayerSet:
        """`LayerSet.of(3, 7)` is `LayerSet((3, 7))`."""
        return cls(indices)

    @classmethod
    def parse(cls, text: str, n_layers: int | None = None) -> LayerSet:
        """Read `"3,7"`, `"[3, 7]"`, `""` (the base) or `"all"` (the donor; needs `n_layers`).

        Raises `InputError` for anything else, for a layer named twice, and for an index of
        `n_layers` or more.
        """
        body = text.strip()
        if body.startswith("[") and body.endswith("]"):
            body = body[1:-1].strip()
        if body == "all":
            if n_layers is None:
                raise InputError("layers 'all': the number of layers is not known here")
            return cls(tuple(range(n_layers)))
        parts = [p.strip() for p in body.split(",")] if body else []
        if not all(re.fullmatch(r"-?[0-9]{1,9}", p) for p in parts):
            raise InputError(
                f"layers {text!r}: expected indices with commas between, such as 3,7 "
                '(or "all", or "" for the base)'
            )
        indices = tuple(int(p) for p in parts)
        if len(set(indices)) != len(indices):
            raise InputError(f"layers {text!r}: a layer is named twice; name each layer once")
        result = cls(indices)
        result.check(n_layers)
        return result

    @classmethod
    def _of_tidy(cls, indices: tuple[int, ...]) -> LayerSet:
        """From indices that are sorted, distinct and 0 or more; searches make many."""
        made = object.__new__(cls)
        object.__setattr__(made, "indices", indices)
        return made

    def check(self, n_layers: int | None) -> None:
        """Raise `InputError` if an index does not exist in a model of `n_layers` layers."""
        if n_layers is not None and self.indices and self.indices[-1] >= n_layers:
            raise InputError(
                f"layer {self.indices[-1]}: the models have {n_layers} layers, "
                f"so an index is 0 to {n_layers - 1}"
            )

    def to_params(self, n_layers: int) -> dict[str, str]:
        """Trial parameters: `layer_00` ... with values `base` or `donor`."""
        self.check(n_layers)
        chosen = set(self.indices)
        return {param_name(i): DONOR if i in chosen else BASE for i in range(n_layers)}

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> LayerSet:
        """The inverse of `to_params`; parameters of other names are passed over."""
        return cls(
            tuple(
                int(name[6:])
                for name, value in params.items()
                if value == DONOR and name.startswith("layer_") and name[6:].isdigit()
            )
        )

    def neighbours(self, n_layers: int, minimum: int, maximum: int) -> list[LayerSet]:
        """All sets one step away within the budget, sorted: one layer added, removed or swapped."""
        mine = self.indices
        others = [i for i in range(n_layers) if i not in mine]
        less = [tuple(i for i in mine if i != gone) for gone in mine]
        found = {tuple(sorted((*rest, i))) for rest in less for i in others}
        if len(mine) < maximum:
            found.update(tuple(sorted((*mine, i))) for i in others)
        if len(mine) > minimum:
            found.update(less)
        return [LayerSet._of_tidy(indices) for indices in sorted(found)]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __contains__(self, layer: object) -> bool:
        return layer in self.indices

    def __str__(self) -> str:
        return ",".join(map(str, self.indices))


def all_layer_sets(n_layers: int, minimum: int, maximum: int) -> Iterator[LayerSet]:
    """Every layer set of `minimum` to `maximum` layers, small ones first."""
    sizes: Iterable[int] = range(minimum, maximum + 1)
    for size in sizes:
        for indices in itertools.combinations(range(n_layers), size):
            yield LayerSet(indices)
