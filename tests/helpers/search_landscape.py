"""A made-up pair of models of 16 layers: the answers of every layer set, known beforehand."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from optlayers.layerset import LayerSet, LayerSpace

N_LAYERS = 16
N_SUBJECTS = 6
QUESTIONS_PER_SUBJECT = 50
N_FULL = N_SUBJECTS * QUESTIONS_PER_SUBJECT
N_FAST = 60


@cache
def landscape_of(seed: int) -> SyntheticPair:
    """The landscape of a seed, made once."""
    return SyntheticPair(seed)


class SyntheticPair:
    """Single layers that help or harm, pairs that need each other or replace each other.

    A question is answered where the skill of the set passes its difficulty, give or take
    noise of that set on that question, or by a lucky guess of one in four.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.strata = np.tile(np.arange(N_SUBJECTS), QUESTIONS_PER_SUBJECT)
        self.effects = rng.normal(0.0, 0.04, N_LAYERS)
        helpful = rng.choice(N_LAYERS, 5, replace=False)
        self.effects[helpful] = rng.uniform(0.10, 0.18, 5)
        a, b, c, d, e = (int(i) for i in helpful)
        # a and b replace each other; c and d are worth more together.
        self.pairs = {frozenset((a, b)): -0.08, frozenset((c, d)): 0.12, frozenset((d, e)): 0.05}
        self.difficulty = rng.uniform(0.0, 1.0, N_FULL)
        self.luck = rng.random(N_FULL) < 0.25
        self._seed = seed
        self._best: dict[tuple[int, int], tuple[float, set[LayerSet]]] = {}

    def skill(self, layers: LayerSet) -> float:
        held = set(layers)
        pairs = sum(bonus for pair, bonus in self.pairs.items() if pair <= held)
        return 0.1 + float(sum(self.effects[i] for i in layers)) + pairs

    def answers(self, layers: LayerSet, questions: int = N_FULL) -> npt.NDArray[np.bool_]:
        rng = np.random.default_rng([self._seed, *(i + 1 for i in layers)])
        noise = rng.normal(0.0, 0.08, N_FULL)
        right = (self.skill(layers) + noise > self.difficulty) | self.luck
        return right[:questions]

    def score(self, layers: LayerSet, questions: int = N_FULL) -> float:
        return float(self.answers(layers, questions).mean())

    def best(self, minimum: int = 1, maximum: int = 4) -> tuple[float, set[LayerSet]]:
        """The highest full score, and the sets that reach it."""
        if (minimum, maximum) not in self._best:
            scores = {s: self.score(s) for s in LayerSpace(N_LAYERS, minimum, maximum)}
            top = max(scores.values())
            sets = {layers for layers, score in scores.items() if score == top}
            self._best[minimum, maximum] = top, sets
        return self._best[minimum, maximum]
