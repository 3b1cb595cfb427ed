"""History: what the records of a study say about each evaluated layer set."""

from __future__ import annotations

import operator
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from optlayers.layerset import LayerSpace
from optlayers.search.individual import NO_GENERATION, Individual
from optlayers.search.logprobs import adjusted_scores
from optlayers.search.prefix_bias import prefix_biases
from optlayers.search.proposal import Phase
from optlayers.trials.ranking import outranks
from optlayers.trials.record import Record
from optlayers.trials.statistics import FloatArray, prior_strength, share_variance

# Score histories used to estimate the prefix bias; more would not improve it.
_COURSES = 2000

EXPLORED = frozenset(("", Phase.explore.value))


class History(NamedTuple):
    """Individuals, the record with most questions of every evaluated set (by indices), and the
    number of sets that have a generation."""

    individuals: list[Individual]
    best: Mapping[tuple[int, ...], Record]
    explored: int


def individuals_from(
    records: Iterable[Record], *, space: LayerSpace, population_size: int, maximise: bool = True
) -> list[Individual]:
    """The distinct evaluated sets of the budget, by the number of their first trial.

    Scores at different fidelities are not comparable. Each is adjusted by log-probabilities
    (`logprobs`), corrected for easier first questions (`prefix_bias`), and shrunk toward the mean
    by a prior worth `statistics.prior_strength` questions. Shrinkage uses every answer paid for,
    unlike a comparison on the common prefix, and works where answers are not stored. Trials of
    plain Optuna studies have no generation; they get it by rank, `population_size` each.
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
    """As `individuals_from`, limited to at most `most` individuals.

    Half of them are the fittest, the others are spread evenly over time. Sets of one layer always
    stay: they are few, and the model needs them.
    """
    best, generations, known, fitness = _survey(records, space, population_size, maximise)
    chosen: Sequence[int] = range(len(best))
    if most is not None and len(best) > most:
        top = np.argpartition(-fitness, most // 2)[: most // 2]
        held = np.zeros(len(best), dtype=bool)
        held[top] = True
        rest = np.flatnonzero(~held)
        held[rest[np.linspace(0, len(rest) - 1, most - len(top)).astype(int)]] = True
        held[[row for row, key in enumerate(best) if len(key) == 1]] = True
        chosen = np.flatnonzero(held).tolist()
    sign = 1.0 if maximise else -1.0
    individuals = []
    pairs, worth, levels = list(best.items()), fitness.tolist(), known.tolist()
    for row in chosen:
        key, record = pairs[row]
        individuals.append(
            Individual(
                record.layers,
                worth[row],
                generations.get(key, NO_GENERATION),
                sign * levels[row],
                _variance(levels[row], record.questions),
            )
        )
    explored = sum(g >= 0 for g in generations.values())
    return History(individuals, best, explored)


def fitness_from(
    records: Iterable[Record], *, space: LayerSpace, population_size: int, maximise: bool = True
) -> dict[tuple[int, ...], float]:
    """The fitness of every evaluated set of the budget, by its indices; higher is better."""
    survey = _survey(records, space, population_size, maximise)
    return dict(zip(survey.best, survey.fitness.tolist(), strict=True))


class _Survey(NamedTuple):
    """For each set: its record with most questions, generation, corrected score and fitness [n]."""

    best: dict[tuple[int, ...], Record]
    generations: dict[tuple[int, ...], int]
    levels: FloatArray
    fitness: FloatArray


@dataclass
class _Latest:
    """The last survey: one plan asks for the same one two or three times."""

    asked: tuple[Any, ...] = ()
    records: tuple[Record, ...] = ()
    made: _Survey | None = None


_latest = threading.local()


def _survey(
    records: Iterable[Record], space: LayerSpace, population_size: int, maximise: bool
) -> _Survey:
    """The survey of these records, cached for the last call."""
    known: _Latest = _latest.__dict__.setdefault("survey", _Latest())
    asked = (space.min_layers, space.max_layers, space.n_choices, population_size, maximise)
    given = tuple(records)
    same = asked == known.asked and len(given) == len(known.records)
    if known.made is None or not (same and all(map(operator.is_, given, known.records))):
        known.asked, known.records = asked, given
        known.made = _make_survey(given, space, population_size, maximise)
    return known.made


def _make_survey(
    records: Sequence[Record], space: LayerSpace, population_size: int, maximise: bool
) -> _Survey:
    best: dict[tuple[int, ...], Record] = {}
    courses: dict[tuple[int, ...], Mapping[int, float]] = {}
    generations: dict[tuple[int, ...], int] = {}
    least, largest, end = space.min_layers, space.max_layers, (space.n_choices,)
    # This loop runs over all trials for every proposal.
    for record in records:
        if not record.is_evaluated:
            continue
        key = record.layers.indices
        if key not in best:
            if not least <= len(key) <= largest or key[-1:] >= end:
                continue
            best[key] = record
            courses[key] = record.intermediate
        else:
            if outranks(record, best[key]):
                best[key] = record
            courses[key] = {**courses[key], **record.intermediate}
        if record.phase in EXPLORED and key not in generations:
            stated = record.generation
            generations[key] = len(generations) // population_size if stated is None else stated
    biases = prefix_biases(_evenly(courses.values(), _COURSES))
    sharper = adjusted_scores(best.values()) if maximise else {}
    levels = np.array([sharper.get(key, record.score) for key, record in best.items()], dtype=float)
    questions = [record.questions for record in best.values()]
    if any(biases.values()):
        levels = levels - np.array([biases.get(n or 0, 0.0) for n in questions])
    fitness = estimates(levels, questions) * (1 if maximise else -1)
    return _Survey(best, generations, levels, fitness)


def _evenly(courses: Collection[Mapping[int, float]], most: int) -> list[Mapping[int, float]]:
    """At most `most` of the score histories, spread evenly over time."""
    return list(courses)[:: -(-len(courses) // most) or 1]


def _variance(score: float, questions: int | None) -> float | None:
    """Variance of a share of right answers; None for any other score."""
    if not questions or not 0.0 <= score <= 1.0:
        return None
    return share_variance(score, questions)


def is_explored(record: Record) -> bool:
    """Whether a record counts toward a generation: an explore trial, or one without a phase."""
    return record.phase in EXPLORED


def is_search(record: Record) -> bool:
    """Whether a record is of probe or explore; validate and refine start from these."""
    return is_explored(record) or record.phase == Phase.probe


def estimates(scores: FloatArray, questions: list[int | None]) -> FloatArray:
    """Scores, float [n], shrunk to their mean by the number of questions behind each.

    Unchanged if all rest on equally many questions, if a number is missing, or if scores are not
    in [0, 1].
    """
    if len(set(questions)) < 2 or None in questions:
        return scores
    if scores.min() < 0.0 or scores.max() > 1.0:
        return scores
    n = np.array(questions, dtype=np.float64)
    strength = prior_strength(scores, n)
    shrunk: FloatArray = (n * scores + strength * float(scores.mean())) / (n + strength)
    return shrunk
