"""Cost: what a layer set costs to run, beside its score, for the front of the two.

A layer costs by where it comes from, and a set the sum of its layers: their number from donors, the
bytes that a further token adds to the cache, or seconds of a decoding step. What was measured is
kept with the study, once, so that all who read it agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optlayers.config.fields import CostKind
from optlayers.config.study import StudyDefinition
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.trials import keys

# [origins, layers]: what each layer costs from the base, then from each donor.
Table = list[list[float]]

KEY = "cost:"
_TITLES: Mapping[str, str] = {
    "layers": "layers from the donor",
    "kv_bytes": "KV cache, kB a token",
    "latency": "a decoding step, ms",
}
_SCALES: Mapping[str, float] = {"layers": 1.0, "kv_bytes": 1e-3, "latency": 1e3}


@dataclass(frozen=True)
class Cost:
    """How the layer sets of a study cost; `table` is None where layers are counted."""

    kind: CostKind = "layers"
    table: Table | None = None
    space: LayerSpace = field(default_factory=LayerSpace)

    def of(self, layers: LayerSet) -> float:
        """Number of layers from donors, bytes a token, or seconds."""
        if self.table is None:
            return float(len(layers))
        base, *donors = self.table
        chosen = self.space.origins(layers)
        found = sum(donors[chosen[i]][i] if i in chosen else own for i, own in enumerate(base))
        # Equal sums in another order are equal costs.
        return float(f"{found:.9g}")

    @property
    def title(self) -> str:
        """What is counted, and the unit of `shown`."""
        return _TITLES[self.kind]

    def shown(self, value: float) -> float:
        """A cost in the unit of `title`."""
        return value * _SCALES[self.kind]

    def text(self, value: float) -> str:
        """A cost in the unit of `title`, as text."""
        return f"{value:.0f}" if self.kind == "layers" else f"{self.shown(value):.3g}"


def counted(space: LayerSpace) -> Table:
    """The costs where layers from donors are counted."""
    return [[0.0] * space.n_layers, *([1.0] * space.n_layers for _ in space.donors)]


def key_of(kind: CostKind) -> str:
    """The attribute of a study that holds the costs of that kind."""
    return f"{KEY}{kind}"


def is_known(definition: StudyDefinition, attrs: Mapping[str, Any]) -> bool:
    """Whether a study knows what its definition counts as cost."""
    return definition.cost == "layers" or key_of(definition.cost) in attrs


def cost_of(definition: StudyDefinition, attrs: Mapping[str, Any]) -> Cost:
    """The cost that a study counts, or the number of layers until it is known."""
    space = definition.space()
    table = attrs.get(key_of(definition.cost))
    if table is None or len(table[0]) != attrs.get(keys.N_LAYERS):
        return Cost(space=space)
    return Cost(definition.cost, table, space)
