"""LayerSet: which layers of a hybrid come from a donor, as a value.

With one donor a choice is the index of a layer. With D donors it is D * layer + the donor's place
in the study, so that a set is still sorted whole numbers, in the order of the layers, to whatever
searches, counts or hashes sets; no layer is chosen twice. Text and parameters, which people and
databases see, have the donors' names: `3@a,7@b`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from optlayers.errors import InputError

BASE = "base"
DONOR = "donor"

# The names of a study's donors, in its order.
Donors = tuple[str, ...]
ONE: Donors = (DONOR,)
# A set for people and JSON: indices, or texts such as 7@b.
Labels = list[Any]
AT = "@"


def param_name(layer: int) -> str:
    """Name of the trial parameter of one layer, such as `layer_07`."""
    return f"layer_{layer:02d}"


@dataclass(frozen=True, order=True)
class LayerSet:
    """The sorted, distinct indices of the layers that a hybrid takes from a donor.

    Raises `InputError` for a negative index. `LayerSet(())` is the base itself. `donors`, where a
    method asks for it, are the names of the study's donors.
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
    def parse(cls, text: str, n_layers: int | None = None, donors: Donors = ONE) -> LayerSet:
        """Read `"3,7"`, `"[3, 7]"`, `""` (the base) or `"all"` (the donor; needs `n_layers`).

        With several donors `"3@a,7@b"` or `"all@b"`. Raises `InputError` for anything else, for a
        layer named twice, and for an index of `n_layers` or more.
        """
        body = text.strip()
        if body.startswith("[") and body.endswith("]"):
            body = body[1:-1].strip()
        several = len(donors) > 1
        # One donor needs no name, and has none.
        parts = [p.strip() for p in body.split(",")] if body else []
        pairs = [part.partition(AT) if several else (part, "", donors[0]) for part in parts]
        layers = [layer for layer, _, _ in pairs]
        if layers == ["all"]:
            if n_layers is None:
                raise InputError("layers 'all': the number of layers is not known here")
            return all_of(_place(text, pairs[0][2], donors), n_layers, len(donors))
        if not all(re.fullmatch(r"-?[0-9]{1,9}", layer) for layer in layers):
            example = f"3@{donors[0]},7@{donors[1]}" if several else "3,7"
            raise InputError(
                f"layers {text!r}: expected indices with commas between, such as {example} "
                '(or "all", or "" for the base)'
            )
        indices = [int(layer) for layer in layers]
        if len(set(indices)) != len(indices):
            raise InputError(f"layers {text!r}: a layer is named twice; name each layer once")
        if indices and min(indices) < 0:
            raise InputError(f"layer {min(indices)}: a layer index is 0 or more")
        places = [_place(text, name, donors) for _, _, name in pairs]
        result = cls(
            tuple(len(donors) * i + place for i, place in zip(indices, places, strict=True))
        )
        result.check(n_layers, len(donors))
        return result

    @classmethod
    def _of_tidy(cls, indices: tuple[int, ...]) -> LayerSet:
        """From indices that are sorted, distinct and 0 or more; searches make many."""
        made = object.__new__(cls)
        object.__setattr__(made, "indices", indices)
        return made

    def check(self, n_layers: int | None, n_donors: int = 1) -> None:
        """Raise `InputError` if an index does not exist in a model of `n_layers` layers."""
        last = self.indices[-1] // n_donors if self.indices else 0
        if n_layers is not None and self.indices and last >= n_layers:
            raise InputError(
                f"layer {last}: the models have {n_layers} layers, "
                f"so an index is 0 to {n_layers - 1}"
            )

    def origins(self, n_donors: int = 1) -> dict[int, int]:
        """The donor, by its place, of each layer that comes from one."""
        return {i // n_donors: i % n_donors for i in self.indices}

    def is_sound(self, n_donors: int = 1) -> bool:
        """Whether no layer is chosen from two donors."""
        return n_donors == 1 or len(self.origins(n_donors)) == len(self.indices)

    def labels(self, donors: Donors = ONE) -> Labels:
        """`[3, 7]`, or with several donors `["3@a", "7@b"]`."""
        n = len(donors)
        if n == 1:
            return list(self.indices)
        return [f"{i // n}{AT}{donors[i % n]}" for i in self.indices]

    def text(self, donors: Donors = ONE) -> str:
        """What `parse` reads: `3,7`, or with several donors `3@a,7@b`."""
        return ",".join(map(str, self.labels(donors)))

    def to_params(self, n_layers: int, donors: Donors = ONE) -> dict[str, str]:
        """Trial parameters: `layer_00` ... with values `base` or `donor` (or a donor's name)."""
        self.check(n_layers, len(donors))
        chosen = self.origins(len(donors))
        return {param_name(i): donors[chosen[i]] if i in chosen else BASE for i in range(n_layers)}

    @classmethod
    def from_params(cls, params: Mapping[str, Any], donors: Donors = ONE) -> LayerSet:
        """The inverse of `to_params`; parameters of other names are passed over."""
        return cls(
            tuple(
                len(donors) * int(name[6:]) + donors.index(value)
                for name, value in params.items()
                if value in donors and name.startswith("layer_") and name[6:].isdigit()
            )
        )

    def neighbours(
        self, n_layers: int, minimum: int, maximum: int, n_donors: int = 1
    ) -> list[LayerSet]:
        """All sets one step away within the budget, sorted: one layer added, removed or swapped.

        Another donor for a layer is a swap too.
        """
        mine = self.indices
        others = [i for i in range(n_layers * n_donors) if i not in mine]
        less = [tuple(i for i in mine if i != gone) for gone in mine]
        found = {tuple(sorted((*rest, i))) for rest in less for i in others}
        if len(mine) < maximum:
            found.update(tuple(sorted((*mine, i))) for i in others)
        if len(mine) > minimum:
            found.update(less)
        near = [LayerSet._of_tidy(indices) for indices in sorted(found)]
        return near if n_donors == 1 else [s for s in near if s.is_sound(n_donors)]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __contains__(self, layer: object) -> bool:
        return layer in self.indices

    def __str__(self) -> str:
        return ",".join(map(str, self.indices))


def _place(text: str, name: str, donors: Donors) -> int:
    """The place of a donor that a text names."""
    if name not in donors:
        what = f"there is no donor {name!r}" if name else "it does not say which donor"
        known = " or ".join(f"3{AT}{donor}" for donor in donors)
        raise InputError(f"layers {text!r}: {what}; write a layer as {known}")
    return donors.index(name)


def sortable(labels: Labels, digits: int = 2) -> str:
    """Layers as a text that sorts as they do."""
    parts = [str(label).partition(AT) for label in labels]
    return " ".join(f"{int(layer):0{digits}d}{at}{donor}" for layer, at, donor in parts)


def all_of(donor: int, n_layers: int, n_donors: int = 1) -> LayerSet:
    """Every layer from one donor, by its place."""
    return LayerSet(tuple(range(donor, n_layers * n_donors, n_donors)))


def all_layer_sets(
    n_layers: int, minimum: int, maximum: int, n_donors: int = 1
) -> Iterator[LayerSet]:
    """Every layer set of `minimum` to `maximum` layers, small ones first."""
    sizes: Iterable[int] = range(minimum, maximum + 1)
    for size in sizes:
        for layers in itertools.combinations(range(n_layers), size):
            for donors in itertools.product(range(n_donors), repeat=size):
                pairs = zip(layers, donors, strict=True)
                yield LayerSet(tuple(n_donors * layer + donor for layer, donor in pairs))
