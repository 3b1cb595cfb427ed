"""Landscapes on which searches are compared: every layer set with its answers, known beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from optlayers.config.study import load_study
from optlayers.errors import InputError
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search.surrogate import indicators
from optlayers.testing import Landscape
from optlayers.testing.simulation import Logs
from optlayers.trials.statistics import StratifiedScore

FloatArray = NDArray[np.float64]
LAYERS, SUBJECTS, PER_SUBJECT, FAST = 32, 57, 20, 5


@dataclass
class Known:
    """Answers [sets, questions] of all layer sets in the order of a study's questions.

    weights: of each subject [subjects], sum 1; None: all alike. logs, fast_weights: as of
    `Simulation`.
    """

    name: str
    n_layers: int
    max_layers: int
    n_fast: int
    strata: NDArray[np.int64]
    index: dict[LayerSet, int]
    answers: NDArray[np.bool_]
    weights: FloatArray | None = None
    logs: Logs = lambda layers, start, stop: None
    fast_weights: FloatArray | None = None

    @cached_property
    def scores(self) -> FloatArray:
        """The score of each set on all questions [sets]."""
        count = np.bincount(self.strata)
        weights = 1.0 / (count[self.strata] * len(count))
        if self.weights is not None:
            weights = self.weights[self.strata] / count[self.strata]
        return np.asarray(self.answers @ weights)

    @cached_property
    def best(self) -> float:
        """The highest score of a set of the budget."""
        return float(max(s for layers, s in zip(self.index, self.scores, strict=True) if layers))

    @property
    def n_full(self) -> int:
        """Number of questions."""
        return int(self.answers.shape[1])

    def of(self, layers: LayerSet, stop: int) -> NDArray[np.bool_]:
        """Right or wrong [stop] of a set on the first questions."""
        return np.asarray(self.answers[self.index[layers], :stop])

    def scorer(self) -> StratifiedScore:
        """Scores of prefixes."""
        return StratifiedScore(strata=self.strata, weights=self.weights)


def recorded(path: Path, most: int | None = None) -> Known:
    """A landscape from a file that `Landscape.save` wrote; most: without larger sets.

    Raises `InputError` where the file is none, or lacks a set of as many layers as its largest.
    """
    found = Landscape.load(path)
    index = found.index
    if most is None:
        most = max((len(layers) for layers in index), default=0)
    sets = {layers: row for layers, row in index.items() if len(layers) <= most}
    for layers in LayerSpace(found.n_layers, 1, most):
        if layers not in sets:
            raise InputError(
                f"landscape {path}: layer set {layers} is not in it; record every set of 1 to "
                f"{most} layers"
            )
    if not most:
        raise InputError(f"landscape {path}: it holds no layer set; record them")
    return Known(
        path.stem,
        found.n_layers,
        most,
        found.order.n_fast,
        found.order.subject,
        {layers: row for row, layers in enumerate(sets)},
        found.answers[list(sets.values())],
        found.order.weights,
        found.logs_of,
        found.order.fast_weights,
    )


def _pairs(rng: np.random.Generator, held: FloatArray, spread: float) -> FloatArray:
    """Small random bonuses of all pairs."""
    bonus = np.triu(rng.normal(0.0, spread, (LAYERS, LAYERS)), 1)
    return np.asarray(np.einsum("si,ij,sj->s", held, bonus, held, optimize=True))


def dominant(rng: np.random.Generator, held: FloatArray) -> FloatArray:
    """One layer brings most, three a little."""
    effects = rng.normal(0.0, 0.01, LAYERS)
    chosen = rng.choice(LAYERS, 4, replace=False)
    effects[chosen] = [0.25, 0.06, 0.05, 0.04]
    return np.asarray(held @ effects + _pairs(rng, held, 0.005))


def redundant(rng: np.random.Generator, held: FloatArray) -> FloatArray:
    """Three groups of three layers each; within a group one is as good as all."""
    chosen = rng.choice(LAYERS, 11, replace=False)
    effects = rng.normal(0.0, 0.01, LAYERS)
    effects[chosen[9:]] = 0.06
    skill = held @ effects
    for group in (chosen[:3], chosen[3:6], chosen[6:9]):
        worth = rng.uniform(0.10, 0.16, 3)
        effects[group] = 0.0
        skill = skill + (held[:, group] * worth).max(axis=1)
    return np.asarray(skill)


def synergistic(rng: np.random.Generator, held: FloatArray) -> FloatArray:
    """Two pairs that are worth something only together, and single decoys."""
    chosen = rng.choice(LAYERS, 8, replace=False)
    effects = rng.normal(0.0, 0.01, LAYERS)
    effects[chosen[4:]] = rng.uniform(0.05, 0.09, 4)
    effects[chosen[:4]] = rng.uniform(0.0, 0.02, 4)
    a, b, c, d = (held[:, i] for i in chosen[:4])
    return np.asarray(held @ effects + 0.2 * a * b + 0.18 * c * d)


def harmful(rng: np.random.Generator, held: FloatArray) -> FloatArray:
    """Most layers harm, five help."""
    effects = rng.uniform(-0.10, -0.01, LAYERS)
    effects[rng.choice(LAYERS, 5, replace=False)] = rng.uniform(0.07, 0.12, 5)
    return np.asarray(0.1 + held @ effects + _pairs(rng, held, 0.01))


def published(rng: np.random.Generator, held: FloatArray) -> FloatArray:
    """Single layers as published for Llamba-8B; together they bring less, and pairs differ."""
    scores = load_study("full").prior.single_layer_scores
    assert scores is not None  # the shipped file has them
    effects = (np.array(scores) - 0.26) * 1.1
    whole = held @ effects + _pairs(rng, held, 0.02)
    return np.asarray(0.6 * (1.0 - np.exp(-np.clip(whole, -0.3, None) / 0.6)))


FAMILIES: dict[str, Callable[[np.random.Generator, FloatArray], FloatArray]] = {
    "dominant": dominant,
    "redundant": redundant,
    "synergistic": synergistic,
    "harmful": harmful,
    "published": published,
}


@dataclass(frozen=True)
class SyntheticQuestions:
    """Questions [n]: how hard each is, and which ones every set guesses rightly."""

    difficulty: NDArray[np.float32]
    guess: NDArray[np.bool_]

    @classmethod
    def draw(cls, n: int, rng: np.random.Generator) -> SyntheticQuestions:
        """Difficulties spread evenly, one lucky guess in eight for all sets alike."""
        return cls(rng.uniform(0.0, 1.0, n).astype(np.float32), rng.random(n) < 0.125)

    def answers(self, skill: FloatArray, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Right or wrong [sets, n] of sets of that skill [sets]."""
        shape = (len(skill), len(self.difficulty))
        noise = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.08)
        lucky = rng.random(shape, dtype=np.float32) < 0.14
        passed = skill[:, None].astype(np.float32) + noise > self.difficulty
        return passed | self.guess | lucky


def synthetic(family: str, seed: int) -> Known:
    """A landscape of 32 layers and 57 subjects of 20 questions, in MMLU's shape.

    A question is right where the skill of the set, with noise of that set on that question, passes
    its difficulty, or by a guess of one in four, half of them the same for all sets.
    """
    rng = np.random.default_rng([seed, list(FAMILIES).index(family)])
    sets = list(LayerSpace(LAYERS, 0, 4))
    skill = FAMILIES[family](rng, indicators(sets, LAYERS)) + 0.05
    n_full = SUBJECTS * PER_SUBJECT
    questions = SyntheticQuestions.draw(n_full, rng)
    answers = np.empty((len(sets), n_full), dtype=np.bool_)
    for start in range(0, len(sets), 4096):
        part = slice(start, start + 4096)
        answers[part] = questions.answers(skill[part], rng)
    strata = np.concatenate([rng.permutation(SUBJECTS) for _ in range(PER_SUBJECT)])
    index = {layers: row for row, layers in enumerate(sets)}
    return Known(family, LAYERS, 4, SUBJECTS * FAST, strata, index, answers)
