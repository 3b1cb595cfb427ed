"""Cost: what a layer set costs to run, the second axis of the Pareto front.

The cost of a set is the sum over its layers, each by where it comes from: the number of layers from
donors, bytes of KV cache per token, or seconds per decoding step. Measured costs are stored with
the study once, so that all readers agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optlayers.config.fields import CostKind
from optlayers.config.study import StudyDefinition
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.trials import keys

# [1 + donors, layers]: the cost of each layer from the base, then from each donor.
Table = list[list[float]]

_TITLES: Mapping[str, str] = {
    "layers": "layers from the donor",
    "kv_bytes": "KV cache, kB a token",
    "latency": "a decoding step, ms",
}
_SCALES: Mapping[str, float] = {"layers": 1.0, "kv_bytes": 1e-3, "latency": 1e3}


@dataclass(frozen=True)
class Cost:
    """The cost of the layer sets of a study; `table` is None where layers are counted."""

    kind: CostKind = "layers"
    table: Table | None = None
    space: LayerSpace = field(default_factory=LayerSpace)

    def of(self, layers: LayerSet) -> float:
        """The cost of a set: number of layers from donors, bytes per token, or seconds."""
        if self.table is None:
            return float(len(layers))
        base, *donors = self.table
        chosen = self.space.origins(layers)
        found = sum(donors[chosen[i]][i] if i in chosen else own for i, own in enumerate(base))
        # Equal costs, summed in another order, must stay equal.
        return float(f"{found:.9g}")

    @property
    def title(self) -> str:
        """What the cost is, with the unit of `shown`."""
        return _TITLES[self.kind]

    def shown(self, value: float) -> float:
        """A cost in the unit of `title`."""
        return value * _SCALES[self.kind]

    def text(self, value: float) -> str:
        """A cost in the unit of `title`, as text."""
        return f"{value:.0f}" if self.kind == "layers" else f"{self.shown(value):.3g}"


def counted(space: LayerSpace) -> Table:
    """The table of costs that counts the layers from donors."""
    return [[0.0] * space.n_layers, *([1.0] * space.n_layers for _ in space.donors)]


def key_of(kind: CostKind) -> str:
    """The attribute of a study that stores its costs of a kind."""
    return f"{keys.COST}{kind}"


def is_known(definition: StudyDefinition, attrs: Mapping[str, Any]) -> bool:
    """Whether a study has the costs that its definition asks for."""
    return definition.cost == "layers" or key_of(definition.cost) in attrs


def cost_of(definition: StudyDefinition, attrs: Mapping[str, Any]) -> Cost:
    """The cost of a study; the number of layers until its costs are measured."""
    space = definition.space()
    table = attrs.get(key_of(definition.cost))
    if table is None or len(table[0]) != attrs.get(keys.N_LAYERS):
        return Cost(space=space)
    return Cost(definition.cost, table, space)
