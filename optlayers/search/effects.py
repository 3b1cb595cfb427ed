"""Effects of layers, pairs and triples, with intervals, from the surrogate.

Each effect is a posterior mean of a difference of scores, with its 95 % interval.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search.individual import Individual
from optlayers.search.patterns import Pattern, mine_patterns
from optlayers.search.prefix_bias import levelled
from optlayers.search.surrogate import Surrogate
from optlayers.trials.record import Record
from optlayers.trials.statistics import Z95

# Number of evaluated sets over which the effect of adding a layer is averaged.
_COMPANY = 150


@dataclass(frozen=True)
class Effect:
    """What a group of layers does to the score (0 to 1), and its 95 % interval.

    For one layer: what it adds, averaged over the sets that the search has evaluated. For a pair or
    a triple: synergy, what they add together beyond their parts. `sets` counts the evaluated sets
    that hold all of them: with none, the interval is the model's prior.
    """

    layers: LayerSet
    effect: float
    ci_low: float
    ci_high: float
    sets: int

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.ci_low > 0.0 or self.ci_high < 0.0


@dataclass(frozen=True)
class Explanation:
    """The effects of all layers (by index), of all pairs seen together, and the mined patterns.

    `pairs` and `triples` (those of the patterns) come strongest first, in either direction.
    """

    layers: tuple[Effect, ...]
    pairs: tuple[Effect, ...]
    triples: tuple[Effect, ...]
    patterns: tuple[Pattern, ...]
    sets: int


def explain(records: Iterable[Record], space: LayerSpace) -> Explanation | None:
    """What the evaluated sets say; None with fewer sets than layers (or than three).

    With several donors each layer of each donor counts for itself.
    """
    n_choices = space.n_choices
    best = [r for r in levelled(records) if r.layers.indices]
    known = [
        Individual(r.layers, r.score, variance=_variance(r.score, r.questions))
        for r in best
        if r.score is not None and r.layers.indices[-1] < n_choices
    ]
    # Sets of most layers, such as the donor itself, say little about single layers.
    known = [o for o in known if len(o.layers) < max(2, space.n_layers // 2)]
    if len(known) < max(3, n_choices):
        return None
    model = Surrogate(known, n_choices)
    every = max(1, len(known) // _COMPANY)
    company = [o.layers for o in known[::every]]
    held = {i: {o.layers for o in known if i in o.layers.indices} for i in range(n_choices)}
    layers = tuple(
        _effect(model, (i,), *_added(i, company, space), len(held[i])) for i in range(n_choices)
    )
    pairs = [
        _effect(model, pair, *_beyond(pair), len(held[pair[0]] & held[pair[1]]))
        for pair in itertools.combinations(range(n_choices), 2)
        if held[pair[0]] & held[pair[1]]
    ]
    patterns = mine_patterns(known)
    triples = [
        _effect(
            model,
            p.layers.indices,
            *_beyond(p.layers.indices),
            len(set.intersection(*(held[i] for i in p.layers.indices))),
        )
        for p in patterns
        if len(p.layers) == 3
    ]
    return Explanation(
        layers=layers,
        pairs=tuple(sorted(pairs, key=_strength)),
        triples=tuple(sorted(triples, key=_strength)),
        patterns=tuple(patterns),
        sets=len(known),
    )


def _strength(effect: Effect) -> tuple[bool, float]:
    """Sure ones first, then the strongest."""
    return not effect.is_sure, -abs(effect.effect)


def _variance(score: float, questions: int | None) -> float | None:
    if not questions or not 0.0 <= score <= 1.0:
        return None
    share = (score * questions + 1.0) / (questions + 2.0)
    return share * (1.0 - share) / questions


def _added(
    layer: int, company: Sequence[LayerSet], space: LayerSpace
) -> tuple[list[LayerSet], list[float]]:
    """The mean of f(S with the layer) - f(S without it), as sets and their coefficients.

    Without: from no donor at all.
    """
    same = space.layer_of(layer)
    rest = [tuple(i for i in s.indices if space.layer_of(i) != same) for s in company]
    with_it = [LayerSet((*indices, layer)) for indices in rest]
    share = 1.0 / len(company)
    without = [LayerSet(indices) for indices in rest]
    return [*with_it, *without], [share] * len(rest) + [-share] * len(rest)


def _beyond(group: tuple[int, ...]) -> tuple[list[LayerSet], list[float]]:
    """Inclusion and exclusion: f(ab) - f(a) - f(b) + f(), and so on for three."""
    sets, signs = [], []
    for size in range(len(group) + 1):
        for part in itertools.combinations(group, size):
            sets.append(LayerSet(part))
            signs.append(1.0 if (len(group) - size) % 2 == 0 else -1.0)
    return sets, signs


def _effect(
    model: Surrogate,
    group: tuple[int, ...],
    sets: Sequence[LayerSet],
    coefficients: Sequence[float],
    count: int,
) -> Effect:
    mean, error = model.combination(sets, np.array(coefficients))
    return Effect(LayerSet(group), mean, mean - Z95 * error, mean + Z95 * error, count)
