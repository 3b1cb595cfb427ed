"""LayerSet, which layers of a hybrid come from a donor, and LayerSpace, the sets of a study.

A layer set is sorted whole numbers, its choices. With one donor a choice is the index of a layer.
With D donors it is D * layer + the donor's place in the study, which only `LayerSpace` knows:
elsewhere a set is a value with a hash, a length and an order. Users and databases see names: `3,7`,
or with several donors `3@a,7@b`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from optlayers.errors import InputError

if TYPE_CHECKING:
    import numpy as np

BASE = "base"
DONOR = "donor"

# The names of a study's donors, in its order.
Donors = tuple[str, ...]
ONE: Donors = (DONOR,)
# A set for people and JSON: indices, or texts such as 7@b.
Labels = list[Any]
# Sets that are not to be drawn again, by their choices, which hash faster than the sets.
SeenSets = AbstractSet[tuple[int, ...]]
AT = "@"

# Random draws before the sets not yet seen are listed one by one.
_TRIES = 100


def param_name(layer: int) -> str:
    """Name of the trial parameter of one layer, such as `layer_07`."""
    return f"layer_{layer:02d}"


@dataclass(frozen=True, order=True)
class LayerSet:
    """The sorted, distinct indices of the layers that a hybrid takes from a donor.

    Raises `InputError` for a negative index. `LayerSet(())` is the base itself. With several donors
    the numbers are choices of a `LayerSpace`.
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
        """Read `"3,7"`, `""` (the base) or `"all"`: see `LayerSpace.parse`."""
        return LayerSpace(n_layers).parse(text)

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> LayerSet:
        """The layers whose trial parameter, such as `layer_07`, is `donor`."""
        return LayerSpace().from_params(params)

    @classmethod
    def _of_sorted(cls, indices: tuple[int, ...]) -> LayerSet:
        """From indices that are sorted, distinct and 0 or more; searches make many."""
        made = object.__new__(cls)
        object.__setattr__(made, "indices", indices)
        return made

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __contains__(self, layer: object) -> bool:
        return layer in self.indices

    def __str__(self) -> str:
        return ",".join(map(str, self.indices))


class LayerSpace:
    """All sets of `min_layers` to `max_layers` of `n_layers` layers, each from one of the donors.

        >>> space = LayerSpace(8, 1, 2, ("a", "b"))
        >>> space.text(space.parse("3@a, 7@b"))
        '3@a,7@b'

    It is the one place that knows how choices are numbered (see the module). n_layers: None where
    it is not known; then sets have names, and nothing can be listed or drawn. max_layers: all of
    them by default. Iterating lists every set, small ones first. Raises `InputError` where the
    budget does not fit the model.
    """

    def __init__(
        self,
        n_layers: int | None = None,
        min_layers: int = 0,
        max_layers: int | None = None,
        donors: Donors = ONE,
    ) -> None:
        if n_layers is not None and n_layers < 1:
            raise InputError(f"n_layers is {n_layers}; a model has 1 layer or more")
        if min_layers < 0 or (max_layers is not None and min_layers > max_layers):
            raise InputError(
                f"layers: min is {min_layers} and max is {max_layers}; expected 0 <= min <= max"
            )
        if n_layers is not None and max_layers is not None and max_layers > n_layers:
            raise InputError(
                f"layers: max is {max_layers} and the models have {n_layers} layers; lower max"
            )
        self._n_layers, self._max_layers = n_layers, max_layers
        self.min_layers = min_layers
        self.donors = donors
        self.n_donors = len(donors)

    @property
    def n_layers(self) -> int:
        """The number of layers of the models; raises `InputError` where it is not known."""
        if self._n_layers is None:
            raise InputError("the number of layers is not known here")
        return self._n_layers

    @property
    def max_layers(self) -> int:
        """Maximum number of layers in a set."""
        return self.n_layers if self._max_layers is None else self._max_layers

    @property
    def n_choices(self) -> int:
        """Layers times donors: choices are the numbers below."""
        return self.n_layers * self.n_donors

    @cached_property
    def size(self) -> int:
        """How many sets there are."""
        sizes = range(self.min_layers, self.max_layers + 1)
        return sum(math.comb(self.n_layers, k) * self.n_donors**k for k in sizes)

    def __iter__(self) -> Iterator[LayerSet]:
        for size in range(self.min_layers, self.max_layers + 1):
            for layers in itertools.combinations(range(self.n_layers), size):
                for places in itertools.product(range(self.n_donors), repeat=size):
                    pairs = zip(layers, places, strict=True)
                    yield LayerSet._of_sorted(tuple(self.choice(*pair) for pair in pairs))

    def __contains__(self, layers: LayerSet) -> bool:
        return (
            self.min_layers <= len(layers) <= self.max_layers
            and (not layers.indices or layers.indices[-1] < self.n_choices)
            and self.is_sound(layers)
        )

    def choice(self, layer: int, place: int) -> int:
        """The number of a layer of a donor, by its place."""
        return self.n_donors * layer + place

    def layer_of(self, choice: int) -> int:
        """The layer of a choice."""
        return choice // self.n_donors

    def origins(self, layers: LayerSet) -> dict[int, int]:
        """For each layer that comes from a donor, the donor's place."""
        return {i // self.n_donors: i % self.n_donors for i in layers.indices}

    def is_sound(self, layers: LayerSet) -> bool:
        """Whether no layer is chosen from two donors."""
        return self.n_donors == 1 or len(self.origins(layers)) == len(layers)

    def check(self, layers: LayerSet) -> None:
        """Raise `InputError` if a layer does not exist in the models."""
        last = self.layer_of(layers.indices[-1]) if layers.indices else 0
        if self._n_layers is not None and layers.indices and last >= self._n_layers:
            raise InputError(
                f"layer {last}: the models have {self._n_layers} layers, "
                f"so an index is 0 to {self._n_layers - 1}"
            )

    def whole(self, donor: str) -> LayerSet:
        """Every layer from one donor."""
        return LayerSet(tuple(range(self.donors.index(donor), self.n_choices, self.n_donors)))

    def parse(self, text: str) -> LayerSet:
        """Read `"3,7"`, `"[3, 7]"`, `""` (the base) or `"all"` (the donor; needs `n_layers`).

        With several donors `"3@a,7@b"` or `"all@b"`. Raises `InputError` for anything else, for a
        layer named twice, and for an index of `n_layers` or more.
        """
        body = text.strip()
        if body.startswith("[") and body.endswith("]"):
            body = body[1:-1].strip()
        several = self.n_donors > 1
        # One donor needs no name, and has none.
        parts = [p.strip() for p in body.split(",")] if body else []
        pairs = [part.partition(AT) if several else (part, "", self.donors[0]) for part in parts]
        names = [layer for layer, _, _ in pairs]
        if names == ["all"]:
            if self._n_layers is None:
                raise InputError("layers 'all': the number of layers is not known here")
            return self.whole(self.donors[self._place(text, pairs[0][2])])
        if not all(re.fullmatch(r"-?[0-9]{1,9}", name) for name in names):
            example = f"3@{self.donors[0]},7@{self.donors[1]}" if several else "3,7"
            raise InputError(
                f"layers {text!r}: expected indices with commas between, such as {example} "
                '(or "all", or "" for the base)'
            )
        indices = [int(name) for name in names]
        if len(set(indices)) != len(indices):
            raise InputError(f"layers {text!r}: a layer is named twice; name each layer once")
        if indices and min(indices) < 0:
            raise InputError(f"layer {min(indices)}: a layer index is 0 or more")
        places = [self._place(text, donor) for _, _, donor in pairs]
        layers = LayerSet(tuple(map(self.choice, indices, places)))
        self.check(layers)
        return layers

    def _place(self, text: str, donor: str) -> int:
        """The place of a donor that a text names."""
        if donor not in self.donors:
            what = f"there is no donor {donor!r}" if donor else "it does not say which donor"
            known = " or ".join(f"3{AT}{name}" for name in self.donors)
            raise InputError(f"layers {text!r}: {what}; write a layer as {known}")
        return self.donors.index(donor)

    def labels(self, layers: LayerSet) -> Labels:
        """`[3, 7]`, or with several donors `["3@a", "7@b"]`."""
        if self.n_donors == 1:
            return list(layers.indices)
        return [f"{i}{AT}{self.donors[place]}" for i, place in self.origins(layers).items()]

    def text(self, layers: LayerSet) -> str:
        """What `parse` reads: `3,7`, or with several donors `3@a,7@b`."""
        return ",".join(map(str, self.labels(layers)))

    def sort_text(self, layers: LayerSet) -> str:
        """The set as text that sorts by its layers: `03 07`, or `03@a 07@b`."""
        parts = [str(label).partition(AT) for label in self.labels(layers)]
        return " ".join(f"{int(layer):02d}{at}{donor}" for layer, at, donor in parts)

    def params(self, layers: LayerSet) -> dict[str, str]:
        """Trial parameters: `layer_00` ... with values `base` or `donor` (or a donor's name)."""
        self.check(layers)
        places = self.origins(layers)
        return {
            param_name(i): self.donors[places[i]] if i in places else BASE
            for i in range(self.n_layers)
        }

    def from_params(self, params: Mapping[str, Any]) -> LayerSet:
        """The inverse of `params`; other parameters are ignored."""
        return LayerSet(
            tuple(
                self.choice(int(name[6:]), self.donors.index(value))
                for name, value in params.items()
                if value in self.donors and name.startswith("layer_") and name[6:].isdecimal()
            )
        )

    def set_of(self, params: Mapping[str, Any]) -> LayerSet:
        """As `from_params`, of parameters that anyone may have written; a missing layer is `base`.

        Raises `InputError` where they are no set of the budget.
        """
        names = [param_name(i) for i in range(self.n_layers)]
        values = (BASE, *self.donors)
        for name, value in params.items():
            if name not in names:
                raise InputError(f"parameter {name!r}; expected {names[0]} to {names[-1]}")
            if value not in values:
                raise InputError(f"{name} is {value!r}; expected {' or '.join(values)}")
        layers = self.from_params(params)
        if layers not in self:
            sizes = f"{self.min_layers} to {self.max_layers}"
            raise InputError(f"it has {len(layers)} donor layers; the study allows {sizes}")
        return layers

    def neighbours(self, layers: LayerSet) -> list[LayerSet]:
        """All sets of the budget one step away, sorted: one layer added, removed or swapped.

        Another donor for a layer is a swap too.
        """
        mine = layers.indices
        others = [i for i in range(self.n_choices) if i not in mine]
        less = [tuple(i for i in mine if i != gone) for gone in mine]
        found = {tuple(sorted((*rest, i))) for rest in less for i in others}
        if len(mine) < self.max_layers:
            found.update(tuple(sorted((*mine, i))) for i in others)
        if len(mine) > self.min_layers:
            found.update(less)
        near = [LayerSet._of_sorted(indices) for indices in sorted(found)]
        return near if self.n_donors == 1 else [s for s in near if self.is_sound(s)]

    def free(self, layers: LayerSet) -> list[int]:
        """The choices whose layers are not in a set."""
        taken = self.origins(layers)
        return [i for i in range(self.n_choices) if self.layer_of(i) not in taken]

    def random_size(self, rng: np.random.Generator) -> int:
        """A size of the budget, each equally likely."""
        return int(rng.integers(self.min_layers, self.max_layers + 1))

    def random(self, rng: np.random.Generator, size: int) -> LayerSet:
        """A random set of that size."""
        found = rng.choice(self.n_layers, size=size, replace=False)
        if self.n_donors > 1:
            found = self.n_donors * found + rng.integers(self.n_donors, size=size)
        return LayerSet(tuple(found.tolist()))

    def random_unseen(self, rng: np.random.Generator, seen: SeenSets) -> LayerSet | None:
        """A random set not in `seen`, its size drawn first; None where all are seen."""
        for _ in range(_TRIES):
            layers = self.random(rng, self.random_size(rng))
            if layers.indices not in seen:
                return layers
        left = [layers for layers in self if layers.indices not in seen]
        return left[int(rng.integers(len(left)))] if left else None
