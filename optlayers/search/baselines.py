"""Baseline searches with the interface of `PatternGASampler`: random, beam, Optuna's samplers.

Each proposes layer sets from the trials so far. Greedy addition is a beam of width 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import Trial, TrialState

from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search.history import is_search
from optlayers.search.proposal import Goal, Phase, Proposal
from optlayers.trials.ranking import best_by_layers, given_up
from optlayers.trials.record import Record

# Asks of an Optuna sampler for each new set before a random set is used.
_TRIES = 8

Scores = Sequence[float] | None  # of the single layers


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
        single_layer_scores: Scores = None,
        pausing: bool = False,
    ) -> list[Proposal]:
        """At most k distinct proposals that are neither evaluated nor being evaluated.

        With `pausing`, sets that have paused may be proposed again (`PatternGASampler` does).
        """
        ...


def _busy(records: Sequence[Record]) -> set[LayerSet]:
    """Sets that must not be proposed because they are being evaluated or have failed too often."""
    return {r.layers for r in records if r.is_claimed} | given_up(records)


class BaselineSampler(ABC):
    """A `LayerSetSampler` whose sets all race; subclasses implement `choose`."""

    ends_itself = False

    def __init__(self, space: LayerSpace) -> None:
        self.space = space

    def propose_from(
        self,
        records: Sequence[Record],
        k: int,
        *,
        single_layer_scores: Scores = None,
        pausing: bool = False,
    ) -> list[Proposal]:
        """As `LayerSetSampler`."""
        sets = self.choose(records, k, single_layer_scores)
        return [Proposal(layers, Phase.explore, Goal.race) for layers in sets]

    @abstractmethod
    def choose(self, records: Sequence[Record], k: int, scores: Scores) -> list[LayerSet]:
        """At most k sets that are neither evaluated nor busy."""


class RandomSearch(BaselineSampler):
    """Random sets without repetition: first a size, then the layers."""

    def __init__(self, *, space: LayerSpace, seed: int) -> None:
        super().__init__(space)
        self._seed = seed

    def choose(self, records: Sequence[Record], k: int, scores: Scores = None) -> list[LayerSet]:
        """Random sets that are new."""
        rng = np.random.default_rng([self._seed, records[-1].number + 1 if records else 0])
        seen = {r.layers.indices for r in records if r.is_evaluated}
        seen |= {layers.indices for layers in _busy(records)}
        found: list[LayerSet] = []
        while len(found) < k and (layers := self.space.random_unseen(rng, seen)) is not None:
            found.append(layers)
            seen.add(layers.indices)
        return found


class BeamSearch(BaselineSampler):
    """The best `width` sets of each size, extended by every layer; width 1 is greedy addition.

    It starts from the best single layers where the budget asks for two or more. Only trials of
    probe and explore count, so that later phases cannot reopen a size.
    """

    ends_itself = True

    def __init__(self, *, space: LayerSpace, width: int = 1) -> None:
        super().__init__(space)
        self.width = width

    def choose(self, records: Sequence[Record], k: int, scores: Scores) -> list[LayerSet]:
        """The missing sets of the first unfinished size."""
        search = filter(is_search, records)
        known = {layers: r.score or 0.0 for layers, r in best_by_layers(search).items()}
        busy, dropped = _busy(records), given_up(records)
        front = [self._start(scores)]
        for _ in range(len(front[0]), self.space.max_layers):
            longer = sorted(
                {
                    LayerSet((*layers.indices, i))
                    for layers in front
                    for i in self.space.free(layers)
                }
            )
            missing = [s for s in longer if s not in known and s not in dropped]
            if missing:
                return [s for s in missing if s not in busy][:k]
            ranked = sorted((s for s in longer if s in known), key=lambda s: -known[s])
            front = ranked[: self.width]
            if not front:
                return []
        return []

    def _start(self, scores: Scores) -> LayerSet:
        length = max(0, self.space.min_layers - 1)
        weights = np.asarray(scores or np.zeros(self.space.n_choices))
        best: dict[int, int] = {}
        for i in np.argsort(-weights, kind="stable").tolist():
            best.setdefault(self.space.layer_of(i), i)
        return LayerSet(tuple(best.values())[:length])


class OptunaSearch(BaselineSampler):
    """A sampler of Optuna, on one categorical parameter for each position in a set.

    A set with fewer layers than positions repeats its last layer, so that every non-empty set has
    parameters, and any parameters make a set. The sampler runs on its own in-memory study, which is
    told every finished set once, in the order of the trials.
    """

    def __init__(self, *, space: LayerSpace, sampler: BaseSampler, seed: int) -> None:
        super().__init__(space)
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

    def choose(self, records: Sequence[Record], k: int, scores: Scores) -> list[LayerSet]:
        """What the sampler suggests; random sets replace repeated ones."""
        known = {
            layers: r.score or 0.0
            for layers, r in best_by_layers(records).items()
            if layers in self.space and len(layers)
        }
        for layers, score in known.items():
            self._tell(layers, score)
        busy = _busy(records)
        found: list[LayerSet] = []
        for _ in range(_TRIES * k):
            if len(found) == k:
                break
            trial = self._study.ask(self._places)
            layers = LayerSet(tuple(set(trial.params.values())))
            if layers in known:
                self._study.tell(trial, known[layers])
            elif layers not in self.space or layers in busy or layers in found:
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                self._asked[layers] = trial
                found.append(layers)
        if len(found) < k:
            more = self._rest.choose(records, k)
            found += [layers for layers in more if layers not in found][: k - len(found)]
        return found

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
