"""Records of trials as a search leaves them."""

from __future__ import annotations

from optuna.trial import TrialState

from optlayers.layerset import LayerSet
from optlayers.search.individual import Individual
from optlayers.trials.record import Record


def record(number: int, layers: tuple[int, ...], score: float | None, questions: int) -> Record:
    full = questions == 160
    return Record(
        number=number,
        state=TrialState.COMPLETE if full else TrialState.PRUNED,
        layers=LayerSet(layers),
        questions=questions,
        score=score,
        ci_low=None if score is None else score - 0.1,
        ci_high=None if score is None else score + 0.1,
        fidelity="full" if full else "fast",
        evaluated=questions,
    )


def individual(text: str, fitness: float, generation: int = 0) -> Individual:
    return Individual(LayerSet.parse(text), fitness, generation)
