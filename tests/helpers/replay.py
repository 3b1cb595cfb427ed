"""A study over a synthetic landscape: everything around the models, without the models."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import optuna
from numpy.typing import NDArray

from optlayers.config.study import StudyDefinition, parse_study
from optlayers.errors import EvaluationError
from optlayers.evaluation.questions import Subject, order_questions
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.results.view import StudyView
from optlayers.search import RacingPruner
from optlayers.storage.connect import open_study
from optlayers.testing import Landscape, ReplayEvaluator
from optlayers.trials.record import read_records
from optlayers.workers.worker import Worker

N_LAYERS = 10
BEST = LayerSet.of(2, 5, 7)

STUDY = """
name: replayed
base: {model: b}
donor: {model: d}
layers: {min: 1, max: 3}
tasks: [{name: t}]
questions: {fast: 4, full: 20}
explore: {population: 8, generations: 5, patience: 4}
validate: {top: 4}
refine: {top: 2, verify: 3, rounds: 3}
"""


SMALL = (
    STUDY.replace("population: 8, generations: 5", "population: 6, generations: 2")
    .replace("validate: {top: 4}", "validate: {top: 2}")
    .replace("top: 2, verify: 3, rounds: 3", "top: 1, verify: 2, rounds: 1")
)


def definition(seed: int = 0, small: bool = False) -> StudyDefinition:
    """The study; `small` has all its phases and a third of its trials."""
    text = SMALL if small else STUDY
    return parse_study(f"{text}seed: {seed}\n", "replayed.yaml", Path())


@functools.cache
def landscape() -> Landscape:
    """Ten layers, of which three matter together, on eight subjects of twenty questions."""
    subjects = [Subject(f"s{i}", 20, 1 / 8) for i in range(8)]
    order = order_questions(subjects, definition().questions)
    rng = np.random.default_rng(3)
    hardness = rng.random(order.n_full)
    worth = np.full(N_LAYERS, 0.01)
    worth[[2, 5, 7]] = 0.2
    sets = list(LayerSpace(N_LAYERS, 0, 3))
    rows = []
    for layers in sets:
        skill = 0.25 + sum(worth[i] for i in layers) + 0.1 * (layers == BEST)
        rows.append(hardness + rng.normal(0, 0.05, order.n_full) < skill)
    return Landscape.of(N_LAYERS, order, sets, np.stack(rows))


def url_in(folder: Path) -> str:
    return f"sqlite:///{folder / 'optuna.db'}"


def study_in(folder: Path, seed: int = 0) -> optuna.Study:
    return open_study(url_in(folder), definition(seed), pruner=RacingPruner(top_k=2))


def trials_in(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return study_in(folder).get_trials(deepcopy=False)


def worker_at(
    url: str,
    seed: int = 0,
    index: int = 0,
    seconds: float = 0.0,
    say: Callable[[str], None] = lambda text: None,
    small: bool = False,
) -> Worker:
    evaluator = ReplayEvaluator(landscape(), seconds)
    wanted = definition(seed, small)
    study = open_study(url, wanted, pruner=RacingPruner(top_k=2), say=say)
    return Worker(wanted, study, evaluator, index=index, cohort=6)


def worker_in(folder: Path, seed: int = 0, index: int = 0, seconds: float = 0.0) -> Worker:
    return worker_at(url_in(folder), seed, index, seconds)


class Broken(ReplayEvaluator):
    """Some sets give NaN, and a bad call raises."""

    def __init__(self, nan: set[LayerSet], fail_at: int | None = None) -> None:
        super().__init__(landscape())
        self.nan, self.fail_at, self.calls = nan, fail_at, 0

    def evaluate(
        self, layer_sets: Sequence[LayerSet], start: int, stop: int
    ) -> list[NDArray[np.bool_] | EvaluationError]:
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("the device has left")
        good = super().evaluate(layer_sets, start, stop)
        return [
            EvaluationError("NaN in the logits") if layers in self.nan else answers
            for layers, answers in zip(layer_sets, good, strict=True)
        ]


class Counting(Broken):
    """Counts how often each question of each set is asked."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__(set(), fail_at)
        self.asked: Counter[tuple[LayerSet, int]] = Counter()

    def evaluate(
        self, layer_sets: Sequence[LayerSet], start: int, stop: int
    ) -> list[NDArray[np.bool_] | EvaluationError]:
        found = super().evaluate(layer_sets, start, stop)
        self.asked.update((layers, n) for layers in layer_sets for n in range(start, stop))
        return found


def assert_sound(study: optuna.Study, small: bool = False) -> None:
    """Done, nothing stuck, no question of a set told twice, every answer as recorded."""
    view = StudyView.of(definition(small=small), study)
    assert view.phase == "done"
    assert view.trial_counts["running"] == view.trial_counts["waiting"] == 0
    truth = landscape()
    paid: dict[LayerSet, int] = defaultdict(int)
    for record in read_records(study.get_trials(deepcopy=False)):
        paid[record.layers] += record.evaluated
        assert len(record.layers) <= 3 or record.reason.startswith("refused")
        if record.is_evaluated:
            assert record.answers is not None
            recorded = truth.answers[truth.index[record.layers], : record.questions]
            np.testing.assert_array_equal(record.answers, recorded)
    assert max(paid.values()) <= truth.order.n_full
