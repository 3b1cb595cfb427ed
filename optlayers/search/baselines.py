"""Baseline searches with the interface of `PatternGASampler`: random, beam, Optuna's samplers.

Each proposes layer sets from the trials so far. Greedy addition is a beam of width 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import Trial, TrialState

from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search.history import is_explored
from optlayers.search.proposal import Goal, Phase, Proposal
from optlayers.trials.ranking import best_by_layers, given_up
from optlayers.trials.record import Record

# Asks of an Optuna sampler for each new set before a random set is used.
_TRIES = 8


class LayerSetSampler(Protocol):
    """Proposes the layer sets of the explore phase.

    `ends_itself`: it ends by itself, so patience must not stop it.
    """

    @property
    def ends_itself(self) -> bool:
        """Whether it ends by itself, by proposing nothing."""
        ...

    @property
    def space(self) -> LayerSpace:
        """The layer sets that may be proposed."""
        ...

    def propose_from(
        self,
        records: Sequence[Record],
        k: int,
        *,
        single_layer_scores: Sequence[float] | None = None,
        pausing: bool = False,
    ) -> list[Proposal]:
        """At most k distinct proposals that are neither evaluated nor being evaluated.

        With `pausing`, sets that have paused may be proposed again (`PatternGASampler` does).
        """
        ...


def _proposals(sets: Sequence[LayerSet]) -> list[Proposal]:
    return [Proposal(layers, Phase.explore, Goal.race) for layers in sets]


def _busy(records: Sequence[Record]) -> set[LayerSet]:
    """Sets that must not be proposed because they are being evaluated or have failed too often."""
    return {r.layers for r in records if r.is_claimed} | given_up(records)


class RandomSearch:
    """Random sets without repetition: first a size, then the layers."""

    ends_itself = False

    def __init__(self, *, space: LayerSpace, seed: int) -> None:
        self.space = space
        self._seed = seed

    def propose_from(
        self,
        records: Sequence[Record],
        k: int,
        *,
        single_layer_scores: Sequence[float] | None = None,
        pausing: bool = False,
    ) -> list[Proposal]:
        """As `LayerSetSampler`."""
        rng = np.random.default_rng([self._seed, records[-1].number + 1 if records else 0])
        seen = {r.layers.indices for r in records if r.is_evaluated}
        seen |= {layers.indices for layers in _busy(records)}
        found: list[LayerSet] = []
        while len(found) < k and (layers := self.space.random_unseen(rng, seen)) is not None:
            found.append(layers)
            seen.add(layers.indices)
        return _proposals(found)


class BeamSearch:
    """The best `width` sets of each size, extended by every layer; width 1 is greedy addition.

    It starts from the best single layers where the budget asks for two or more. Only trials of
    probe and explore count, so that later phases cannot reopen a size.
    """

    ends_itself = True

    def __init__(self, *, space: LayerSpace, width: int = 1) -> None:
        self.space = space
        self.width = width

    def propose_from(
        self,
        records: Sequence[Record],
        k: int,
        *,
        single_layer_scores: Sequence[float] | None = None,
        pausing: bool = False,
    ) -> list[Proposal]:
        """As `LayerSetSampler`: the missing sets of the first unfinished size."""
        search = (r for r in records if is_explored(r) or r.phase == Phase.probe)
        scores = {layers: r.score or 0.0 for layers, r in best_by_layers(search).items()}
        busy, dropped = _busy(records), given_up(records)
        front = [self._start(single_layer_scores)]
        for _ in range(len(front[0]), self.space.max_layers):
            longer = sorted(
                {
                    LayerSet((*layers.indices, i))
                    for layers in front
                    for i in self.space.free(layers)
                }
            )
            missing = [s for s in longer if s not in scores and s not in dropped]
            if missing:
                return _proposals([s for s in missing if s not in busy][:k])
            ranked = sorted((s for s in longer if s in scores), key=lambda s: -scores[s])
            front = ranked[: self.width]
            if not front:
                return []
        return []

    def _start(self, single_layer_scores: Sequence[float] | None) -> LayerSet:
        known = max(0, self.space.min_layers - 1)
        weights = np.asarray(single_layer_scores or np.zeros(self.space.n_choices))
        best: dict[int, int] = {}
        for i in np.argsort(-weights, kind="stable").tolist():
            best.setdefault(self.space.layer_of(i), i)
        return LayerSet(tuple(best.values())[:known])


class OptunaSearch:
    """A sampler of Optuna, on one categorical parameter for each position in a set.

    A set with fewer layers than positions repeats its last layer, so that every non-empty set has
    parameters, and any parameters make a set. The sampler runs on an in-memory study of its own,
    in which every finished set is told once, in the order of the trials.
    """

    ends_itself = False

    def __init__(self, *, space: LayerSpace, sampler: BaseSampler, seed: int) -> None:
        self.space = space
        self._rest = RandomSearch(space=space, seed=seed)
        choices = CategoricalDistribution(list(range(space.n_choices)))
        self._places: dict[str, BaseDistribution] = {
            f"place_{i}": choices for i in range(space.max_layers)
        }
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        optuna.logging.set_verbosity(level)
        self._asked: dict[LayerSet, Trial] = {}
        self._told: set[LayerSet] = set()

    def propose_from(
        self,
        records: Sequence[Record],
        k: int,
        *,
        single_layer_scores: Sequence[float] | None = None,
        pausing: bool = False,
    ) -> list[Proposal]:
        """As `LayerSetSampler`; random sets replace repeated ones."""
        scores = {
            layers: r.score or 0.0
            for layers, r in best_by_layers(records).items()
            if layers in self.space and len(layers)
        }
        for layers, score in scores.items():
            self._tell(layers, score)
        busy = _busy(records)
        found: list[LayerSet] = []
        for _ in range(_TRIES * k):
            if len(found) == k:
                break
            trial = self._study.ask(self._places)
            layers = LayerSet(tuple(set(trial.params.values())))
            if layers in scores:
                self._study.tell(trial, scores[layers])
            elif layers not in self.space or layers in busy or layers in found:
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                self._asked[layers] = trial
                found.append(layers)
        proposals = _proposals(found)
        if len(found) < k:
            more = self._rest.propose_from(records, k)
            proposals += [p for p in more if p.layers not in found][: k - len(found)]
        return proposals

    def _tell(self, layers: LayerSet, score: float) -> None:
        if layers in self._told:
            return
        self._told.add(layers)
        trial = self._asked.pop(layers, None)
        if trial is None:
            # Asked like any other, so that samplers count it toward a generation.
            indices = layers.indices
            filled = indices + indices[-1:] * (self.space.max_layers - len(indices))
            self._study.enqueue_trial(dict(zip(self._places, filled, strict=True)))
            trial = self._study.ask(self._places)
        self._study.tell(trial, score)
