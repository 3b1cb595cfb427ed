"""What a view of a study says, against the truth that its search was replayed from."""

from __future__ import annotations

import numpy as np
import pytest
from optuna.trial import TrialState

from optlayers.layerset import LayerSet, LayerSpace
from optlayers.results.course import union_length
from optlayers.results.patterns import effects
from optlayers.results.progress import Failure, failures, funnel, savings
from optlayers.trials.record import Record, read_records
from optlayers.trials.statistics import StratifiedScore, paired_difference
from optlayers.trials.worker_state import WorkerState
from tests.helpers.finished import Finished
from tests.helpers.replay import BEST, N_LAYERS, landscape


def record(number: int, layers: tuple[int, ...], **more: object) -> Record:
    done = {"state": TrialState.PRUNED, "score": 0.5, "questions": 32, "fidelity": "fast"}
    return Record(number=number, layers=LayerSet(layers), **{**done, **more})  # type: ignore[arg-type]


FULL = {"state": TrialState.COMPLETE, "questions": 160, "fidelity": "full"}


def test_the_funnel_counts_distinct_sets_by_how_far_they_came() -> None:
    found = funnel(
        [
            record(0, (1,), goal="fast", phase="probe"),
            record(1, (1, 2), goal="race", phase="explore"),
            record(2, (1, 3), goal="race", phase="explore"),
            record(3, (1, 3), goal="full", phase="validate", **FULL),
            record(4, (2, 3), goal="full", phase="refine", **FULL),
            record(5, (4,), state=TrialState.RUNNING, score=None),
            record(6, (5,), state=TrialState.WAITING, score=None),
            record(7, (6,), state=TrialState.FAIL, score=None),
            record(8, (5, 6), goal="step", phase="explore", questions=8),
        ],
        n_fast=32,
    )
    assert found.evaluated == 5
    assert [count for _, count, _ in found.steps()] == [7, 4, 2, 2, 1]


def test_failures_are_grouped_by_reason_and_returned_sets_come_last() -> None:
    none = {"state": TrialState.FAIL, "score": None}
    nan = "NaN in the logits; these layers do not work together"
    found = failures(
        [
            record(0, (1,), worker="a:1:1", reason="interrupted: the worker was stopped", **none),
            record(1, (1, 2), worker="a:1:1", reason=f"layers [1,2]: {nan}", **none),
            record(2, (3,), worker="a:1:1", reason=f"layers [3]: {nan}", **none),
            record(3, (4,), worker="a:1:1", **none),
            record(4, (5,)),
        ],
        LayerSpace(),
    )
    assert found == [
        Failure(nan, 2, False, [1, 2]),
        Failure("interrupted: the worker was stopped", 1, True, [1]),
        Failure("lost worker", 1, True, [4]),
    ]


def test_savings_are_against_every_set_in_full_and_every_pass_alone() -> None:
    records = [record(0, (1,), evaluated=32), record(1, (2,), evaluated=160, **FULL)]
    found = savings(records, [WorkerState("a", passes=30, saved_passes=10)], 160)
    assert found.racing == pytest.approx(1 - 192 / 320)
    assert found.prefixes == pytest.approx(0.25)
    assert found.together == pytest.approx(1 - 0.6 * 0.75)
    assert savings([], [], 160).together is None


def test_scores_and_comparisons_agree_with_the_landscape(finished: Finished) -> None:
    view, known = finished.view, landscape()
    truth = known.scores()
    assert view.best is not None
    assert view.best.layers == list(BEST.indices)
    assert (view.phase, view.n_layers, view.n_full) == ("done", N_LAYERS, 160)
    for entry in [r for r in view.compared if r.fidelity == "full"]:
        layers = LayerSet(tuple(entry.layers))
        assert entry.score == pytest.approx(truth[layers])
        against = paired_difference(
            known.answers[known.index[layers]],
            known.answers[known.index[BEST]],
            known.order.subject,
            known.order.weights,
        )
        assert entry.behind == pytest.approx(0 if layers == BEST else against.difference)
        assert entry.tied == (layers == BEST or against.p_value > 0.05)
    assert not any(entry.tied for entry in view.compared if entry.fidelity == "fast")
    assert view.references["base"].score == pytest.approx(truth[LayerSet(())])
    assert view.references["donor"].score == pytest.approx(0.9, abs=0.08)
    for subject, name in enumerate(s.name for s in known.order.subjects):
        [row] = [s for s in view.subjects if s.name == name]
        mine = known.order.subject == subject
        assert row.winner == pytest.approx(known.answers[known.index[BEST]][mine].mean())
        assert row.base == pytest.approx(known.answers[known.index[LayerSet(())]][mine].mean())
        assert row.donor is not None


def test_costs_add_up(finished: Finished) -> None:
    view = finished.view
    records = read_records(finished.study.get_trials(deepcopy=False))
    paid = sum(r.evaluated for r in records)
    assert view.course.total.questions == paid
    assert view.course.total.stop == pytest.approx(paid / 160)
    assert [p.phase for p in view.course.phases] == ["probe", "explore", "validate", "refine"]
    [worker] = view.workers
    assert worker.questions == paid
    assert worker.state == "done"
    assert worker.passes + worker.saved_passes == worker.questions * N_LAYERS
    assert worker.saved_passes > 0
    assert "cores" in worker.hardware
    assert "optuna" in worker.versions
    full = [s.score for s in view.course.full]
    assert full == sorted(full)
    assert full[-1] == view.compared[0].score
    # The grey line is of the fast questions, not of the part of them that a race begins with.
    fast = [s.score for s in view.course.fast]
    assert fast == sorted(fast)
    known = landscape()
    scale = StratifiedScore(strata=known.order.subject, weights=known.order.weights)
    reached = [e.layers for e in view.compared if e.questions >= view.n_fast]
    rows = [known.answers[known.index[LayerSet(tuple(layers))]] for layers in reached]
    assert fast[-1] == pytest.approx(max(scale.score(row[: view.n_fast]) for row in rows))
    assert view.funnel.fast == len(reached) < view.funnel.evaluated


def test_every_full_set_has_its_fast_score(finished: Finished) -> None:
    """Though the trial that took it further may have asked later questions only."""
    view, known = finished.view, landscape()
    assert len(view.fast_and_full) == len([r for r in view.compared if r.fidelity == "full"])
    scale = StratifiedScore(strata=known.order.subject, weights=known.order.weights)
    for pair in view.fast_and_full:
        answers = known.answers[known.index[LayerSet(tuple(pair.layers))]]
        assert pair.fast == pytest.approx(scale.score(answers[: view.n_fast]))
        assert pair.full == pytest.approx(scale.score(answers))


def test_the_best_layers_have_the_largest_effects(finished: Finished) -> None:
    found = finished.view.effects
    assert found is not None
    ranked = sorted(found.explanation.layers, key=lambda e: -e.effect)
    assert {e.layers.indices[0] for e in ranked[:3]} == set(BEST.indices)
    assert all(e.is_sure for e in ranked[:3])
    assert np.isnan(np.diag(found.synergy)).all()
    np.testing.assert_array_equal(found.synergy, found.synergy.T)
    for pair in found.explanation.pairs:
        i, j = pair.layers.indices
        assert found.synergy[i, j] == pair.effect
        assert found.half[j, i] == pytest.approx(pair.ci_high - pair.effect)
    assert np.isfinite(found.synergy).sum() == 2 * len(found.explanation.pairs)
    assert effects([], LayerSpace(N_LAYERS)) is None


def test_overlapping_trials_count_once_in_the_time() -> None:
    assert union_length([(0, 10), (5, 12), (20, 21), (20.5, 20.7)]) == 13
    assert union_length([]) == 0
