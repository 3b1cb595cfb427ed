"""Searches on one interface and one accounting: question-layer passes.

A search gets an `Oracle` and a random generator and asks for scores until the oracle ends it. Who
asks for several sets at once may share prefixes among them; nobody pays for a question of a set
twice. `optlayers` plans, races and refines with the code of the package.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import optuna

from benchmarks.lib.landscapes import Known
from optlayers.config.study import StudyDefinition
from optlayers.inference.prefix_tree import layer_passes
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search.operators import mutate, repair, uniform_crossover
from optlayers.search.rungs import Rungs
from optlayers.testing.simulation import Simulation

COHORT = 16


class EndedError(Exception):
    """The target is reached, or the budget is spent."""


@dataclass
class Oracle:
    """Answers, and what they cost.

    cost, shared: question-layer passes without and with shared prefixes, in units of one set on
    all questions. history: (cost, shared, best score on all questions so far).
    """

    known: Known
    target: float
    budget: float
    cost: float = 0.0
    shared: float = 0.0
    best: float = 0.0
    history: list[tuple[float, float, float]] = field(default_factory=list)
    seen: dict[LayerSet, int] = field(default_factory=dict)

    def ask(self, sets: Sequence[LayerSet], stop: int | None = None) -> list[float]:
        """Scores on the first `stop` questions (all by default); raises `EndedError`."""
        known = self.known
        stop = known.n_full if stop is None else stop
        starts: dict[int, list[LayerSet]] = {}
        for layers in dict.fromkeys(sets):
            if self.seen.get(layers, 0) < stop:
                starts.setdefault(self.seen.get(layers, 0), []).append(layers)
        unit = known.n_layers * known.n_full
        for start, group in starts.items():
            self.cost += len(group) * known.n_layers * (stop - start) / unit
            self.shared += layer_passes(group, LayerSpace(known.n_layers)) * (stop - start) / unit
            self.seen.update(dict.fromkeys(group, stop))
        if stop == known.n_full:
            scores = [float(known.scores[known.index[layers]]) for layers in sets]
            self.best = max([self.best, *scores])
        else:
            scorer = known.scorer()
            scores = [scorer.score(known.answers[known.index[layers], :stop]) for layers in sets]
        self.history.append((self.cost, self.shared, self.best))
        if self.best >= self.target or self.cost >= self.budget:
            raise EndedError
        return scores


def exhaustive(oracle: Oracle, rng: np.random.Generator) -> None:
    """All sets, small ones first."""
    sets = list(LayerSpace(oracle.known.n_layers, 1, oracle.known.max_layers))
    for start in range(0, len(sets), 64):
        oracle.ask(sets[start : start + 64])


def random_sets(oracle: Oracle, rng: np.random.Generator) -> None:
    """Sets drawn evenly from all."""
    sets = list(LayerSpace(oracle.known.n_layers, 1, oracle.known.max_layers))
    order = rng.permutation(len(sets))
    for start in range(0, len(sets), COHORT):
        oracle.ask([sets[i] for i in order[start : start + COHORT]])


def beam(oracle: Oracle, width: int) -> LayerSet:
    """The best `width` sets of each size, extended by every layer; width 1 is greedy addition."""
    known = oracle.known
    front: list[LayerSet] = [LayerSet(())]
    best, best_score = LayerSet(()), -1.0
    for _ in range(known.max_layers):
        longer = sorted(
            {
                LayerSet((*layers, i))
                for layers in front
                for i in range(known.n_layers)
                if i not in layers
            }
        )
        scores = oracle.ask(longer)
        order = np.argsort(-np.array(scores), kind="stable")
        front = [longer[i] for i in order[:width]]
        if scores[order[0]] > best_score:
            best, best_score = front[0], scores[order[0]]
    return best


def greedy(oracle: Oracle, rng: np.random.Generator) -> None:
    """Greedy addition."""
    beam(oracle, 1)


def greedy_swaps(oracle: Oracle, rng: np.random.Generator) -> None:
    """Greedy addition, then the best swap as long as one is better."""
    known = oracle.known
    centre = beam(oracle, 1)
    score = oracle.ask([centre])[0]
    while True:
        near = LayerSpace(known.n_layers, 1, known.max_layers).neighbours(centre)
        scores = oracle.ask(near)
        if max(scores) <= score:
            return
        score = max(scores)
        centre = near[int(np.argmax(scores))]


def beam_3(oracle: Oracle, rng: np.random.Generator) -> None:
    """Beam search of width 3."""
    beam(oracle, 3)


def _optuna(oracle: Oracle, sampler: optuna.samplers.BaseSampler) -> None:
    """A sampler of Optuna's own on the size of the set and the layer of each place."""
    known = oracle.known
    study = optuna.create_study(direction="maximize", sampler=sampler)
    while True:
        trials, sets = [], []
        for _ in range(COHORT):
            trial = study.ask()
            size = trial.suggest_int("size", 1, known.max_layers)
            places = [
                trial.suggest_categorical(f"place_{i}", list(range(known.n_layers)))
                for i in range(known.max_layers)
            ]
            trials.append(trial)
            sets.append(LayerSet(tuple(dict.fromkeys(places[:size]))))
        for trial, score in zip(trials, oracle.ask(sets), strict=True):
            study.tell(trial, score)


def tpe(oracle: Oracle, rng: np.random.Generator) -> None:
    """Optuna's TPE with its defaults."""
    _optuna(oracle, optuna.samplers.TPESampler(seed=int(rng.integers(2**31))))


def nsgaii(oracle: Oracle, rng: np.random.Generator) -> None:
    """Optuna's NSGA-II with its defaults."""
    _optuna(oracle, optuna.samplers.NSGAIISampler(seed=int(rng.integers(2**31))))


def predecessor(oracle: Oracle, rng: np.random.Generator) -> None:
    """The GA of the system before: fast questions, the top 20 in full, refinement of the top 3."""
    known = oracle.known
    space = LayerSpace(n_layers=known.n_layers, min_layers=1, max_layers=known.max_layers)
    singles = [LayerSet.of(i) for i in range(known.n_layers)]
    weights = np.array(oracle.ask(singles, known.n_fast)) ** 2
    if np.count_nonzero(weights) < known.max_layers:
        weights += 1e-9  # of layers that all answer nothing right, any may be drawn
    weights = weights / weights.sum()

    def smart() -> LayerSet:
        size = min(int(rng.choice([2, 3, 4], p=[0.2, 0.4, 0.4])), known.max_layers)
        return LayerSet(tuple(int(i) for i in rng.choice(known.n_layers, size, False, weights)))

    population = [
        smart() if i < 20 else space.random(rng, space.random_size(rng)) for i in range(40)
    ]
    fitness: dict[LayerSet, float] = {}
    stale = 0
    for _ in range(20):
        scores = oracle.ask(population, known.n_fast)
        improved = max(scores) > max(fitness.values(), default=-1.0)
        fitness.update(zip(population, scores, strict=True))
        stale = 0 if improved else stale + 1
        if stale >= 6:
            break
        ranked = sorted(set(population), key=lambda s: -fitness[s])
        children = ranked[:3]

        def parent(pool: list[LayerSet] = population) -> LayerSet:
            drawn = [pool[int(i)] for i in rng.integers(0, len(pool), 3)]
            return max(drawn, key=lambda s: fitness[s])

        while len(children) < 40:
            child = parent()
            if rng.random() < 0.8:
                child = repair(uniform_crossover(child, parent(), rng), space, rng)
            if rng.random() < 0.3:
                child = mutate(child, space, (), rng)
            children.append(child)
        population = children
    top = sorted(fitness, key=lambda s: -fitness[s])[:20]
    full = dict(zip(top, oracle.ask(top), strict=True))
    for centre in sorted(full, key=lambda s: -full[s])[:3]:
        while True:
            near = LayerSpace(known.n_layers, 1, known.max_layers).neighbours(centre)
            coarse = oracle.ask(near, known.n_fast)
            best = [near[i] for i in np.argsort(-np.array(coarse), kind="stable")[:5]]
            scores = oracle.ask(best)
            if max(scores) <= full[centre]:
                break
            full[best[int(np.argmax(scores))]] = max(scores)
            centre = best[int(np.argmax(scores))]


def study_on(known: Known, seed: int) -> StudyDefinition:
    """A study with the default settings on a landscape."""
    return StudyDefinition.model_validate(
        {
            "name": "bench",
            "base": {"model": "base"},
            "donor": {"model": "donor"},
            "layers": {"min": 1, "max": known.max_layers},
            "tasks": [{"name": "task"}],
            "seed": seed,
        }
    )


def optlayers(oracle: Oracle, rng: np.random.Generator) -> None:
    """This package: its plan, sampler and racing pruner, one worker with its own cohorts."""
    known = oracle.known
    definition = study_on(known, int(rng.integers(2**31)))
    questions = Rungs(known.n_fast, known.n_full, known.strata, known.weights)
    study = Simulation(
        definition,
        known.n_layers,
        questions,
        known.of,
        lambda sets, start, stop, phase: oracle.ask(sets, stop),
        logs=known.logs,
        fast_weights=known.fast_weights,
    )
    deque(study.worker(), maxlen=0)


SEARCHES: dict[str, Callable[[Oracle, np.random.Generator], None]] = {
    "optlayers": optlayers,
    "greedy addition": greedy,
    "greedy with swaps": greedy_swaps,
    "beam of 3": beam_3,
    "predecessor's GA": predecessor,
    "TPE": tpe,
    "NSGA-II": nsgaii,
    "random": random_sets,
    "exhaustive": exhaustive,
}
