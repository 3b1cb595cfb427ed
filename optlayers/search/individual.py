"""Individual: one evaluated layer set as the genetic search sees it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from optlayers.layerset import LayerSet
from optlayers.search.offsets import at_level, prefix_offsets
from optlayers.search.proposal import Phase
from optlayers.search.record import Record
from optlayers.search.records import outranks
from optlayers.search.space import LayerSpace
from optlayers.search.statistics import prior_strength

# Evaluated before the first generation or outside of any: a parent for every generation.
NO_GENERATION = -1

EXPLORED = frozenset(("", Phase.explore.value))


class Individual(NamedTuple):
    """An evaluated layer set: `fitness` is larger for better, and comparable across fidelities.

    `generation` is the one that it was proposed for (`NO_GENERATION`: none). `score` is the
    score as it was measured, larger for better, and `variance` that of its noise, where known.
    """

    layers: LayerSet
    fitness: float
    generation: int = NO_GENERATION
    score: float | None = None
    variance: float | None = None


class History(NamedTuple):
    """Individuals; the indices of every evaluated set, and how many of them have a generation."""

    individuals: list[Individual]
    known: Collection[tuple[int, ...]]
    explored: int


def individuals_from(
    records: Iterable[Record], *, space: LayerSpace, population_size: int, maximise: bool = True
) -> list[Individual]:
    """The distinct evaluated sets of the budget, by the number of their first trial.

    Scores of different fidelity are not compared as they are: each is relieved of what its
    questions are easier than all (`offsets`), and drawn toward the mean of the population by a
    number of questions that the population's own spread gives
    (`statistics.prior_strength`). Shrinkage rather than the common prefix, because it uses
    every answer paid for, and works where answers are not stored. Trials that say nothing of
    their generation (plain studies) get it from their rank: `population_size` a generation.
    """
    return history_from(
        records, space=space, population_size=population_size, maximise=maximise
    ).individuals


def history_from(
    records: Iterable[Record],
    *,
    space: LayerSpace,
    population_size: int,
    maximise: bool = True,
    most: int | None = None,
) -> History:
    """As `individuals_from`, with what a choice of at most `most` of them leaves out.

    Half of the choice are the fittest, the others are spread evenly over time; all sets of one
    layer stay, since they are few and weigh the layers.
    """
    best: dict[tuple[int, ...], Record] = {}
    courses: dict[tuple[int, ...], dict[int, float]] = {}
    generations: dict[tuple[int, ...], int] = {}
    least, largest, end = space.min_layers, space.max_layers, (space.n_layers,)
    # Ten thousand trials pass here for every proposal.
    for record in records:
        if not record.is_evaluated:
            continue
        key = record.layers.indices
        if key not in best:
            if not least <= len(key) <= largest or key[-1:] >= end:
                continue
            best[key] = record
        elif outranks(record, best[key]):
            best[key] = record
        if record.intermediate:
            courses.setdefault(key, {}).update(record.intermediate)
        if record.phase in EXPLORED and key not in generations:
            stated = record.generation
            generations[key] = len(generations) // population_size if stated is None else stated
    offsets = prefix_offsets(list(courses.values()))
    pairs = [(key, at_level(record, offsets)) for key, record in best.items()]
    fitness = _fitness([record for _, record in pairs], maximise=maximise)
    chosen: Sequence[int] = range(len(pairs))
    if most is not None and len(pairs) > most:
        values = np.asarray(fitness)
        top = np.argpartition(-values, most // 2)[: most // 2]
        held = np.zeros(len(pairs), dtype=bool)
        held[top] = True
        rest = np.flatnonzero(~held)
        held[rest[np.linspace(0, len(rest) - 1, most - len(top)).astype(int)]] = True
        held[[row for row, (key, _) in enumerate(pairs) if len(key) == 1]] = True
        chosen = np.flatnonzero(held).tolist()
    # Sets found by other phases (probe, refine) have no generation.
    sign = 1.0 if maximise else -1.0
    individuals = []
    for row in chosen:
        key, record = pairs[row]
        score = None if record.score is None else sign * record.score
        generation = generations.get(key, NO_GENERATION)
        individuals.append(
            Individual(record.layers, fitness[row], generation, score, _variance(record))
        )
    known = {key for key, _ in pairs}
    return History(individuals, known, sum(g >= 0 for g in generations.values()))


def _variance(record: Record) -> float | None:
    """Variance of a share of right answers; None for any other score."""
    if record.score is None or not record.questions or not 0.0 <= record.score <= 1.0:
        return None
    # One right and one wrong answer more keep it from being zero.
    share = (record.score * record.questions + 1.0) / (record.questions + 2.0)
    return share * (1.0 - share) / record.questions


def is_explored(record: Record) -> bool:
    """Whether a record counts toward a generation: an explore trial, or one without a phase."""
    return record.phase in EXPLORED


def _fitness(records: list[Record], *, maximise: bool) -> list[float]:
    scores = np.array([record.score for record in records], dtype=np.float64)
    return (estimates(scores, [r.questions for r in records]) * (1 if maximise else -1)).tolist()


def estimates(
    scores: np.ndarray[tuple[int], np.dtype[np.float64]], questions: list[int | None]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Scores, float [n], shrunk to their mean by the number of questions behind each.

    Unchanged where all rest on equally many, where a number is missing, and where a score is
    no share of right answers: then there is nothing to weigh by.
    """
    if len(set(questions)) < 2 or None in questions:
        return scores
    if scores.min() < 0.0 or scores.max() > 1.0:
        return scores
    n = np.array(questions, dtype=np.float64)
    strength = prior_strength(scores, n)
    shrunk: np.ndarray[tuple[int], np.dtype[np.float64]] = (
        n * scores + strength * float(scores.mean())
    ) / (n + strength)
    return shrunk
