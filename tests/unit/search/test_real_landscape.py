"""The search on the recorded answers of a real pair (examples/smollm2_mamba)."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from benchmarks.lib.competitors import study_on
from benchmarks.lib.landscapes import Known, recorded
from benchmarks.lib.program import REAL_LANDSCAPE
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search.rungs import Rungs
from optlayers.testing import Landscape, Simulation

BEST = LayerSet((7, 16, 18))


@functools.cache
def known() -> Known:
    return recorded(REAL_LANDSCAPE, 3)


def test_the_recording_holds_every_set_of_up_to_three_layers() -> None:
    assert set(LayerSpace(30, 0, 3)) == set(known().index)
    found = Landscape.load(REAL_LANDSCAPE)
    assert found.logs is not None
    assert found.logs.shape == (len(found.index), found.order.n_fast)
    assert np.isfinite(found.logs).all()
    assert found.logs.max() <= 0.0


def test_a_right_choice_is_likelier_than_a_wrong_one() -> None:
    found = Landscape.load(REAL_LANDSCAPE)
    assert found.logs is not None
    right = found.answers[:, : found.order.n_fast]
    # Four choices: the likeliest has more than a quarter, up to the rounding of the recording.
    assert (found.logs[right] >= np.log(0.25) - 1 / 32).all()
    assert found.logs[right].mean() > found.logs[~right].mean() + 0.5


@pytest.mark.parametrize("seed", range(3))
def test_the_search_finds_the_best_set_with_few_questions(seed: int) -> None:
    pair = known()
    questions = Rungs(pair.n_fast, pair.n_full, pair.strata, pair.weights)
    study = Simulation(
        study_on(pair, seed),
        pair.n_layers,
        questions,
        pair.of,
        logs=pair.logs,
        fast_weights=pair.fast_weights,
    )
    records = study.run(seed=seed)
    full = [r for r in records if r.questions == pair.n_full]
    best = max(full, key=lambda r: r.score or 0.0)
    assert best.layers == BEST
    assert pair.scores[pair.index[BEST]] == pair.best
    # Less than a fortieth of what all sets would cost.
    assert sum(r.evaluated for r in records) < len(pair.index) * pair.n_full / 40
