"""What `explain` says of a landscape whose effects are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from optuna.trial import TrialState

from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search import Effect, explain
from optlayers.trials.record import Record

N, QUESTIONS = 8, 4000
SPACE = LayerSpace(N)


def truth(layers: tuple[int, ...]) -> float:
    """Layer 0 helps, 1 harms; 2 and 3 work together; 4 and 5 replace each other."""
    held = set(layers)
    score = 0.3 + 0.15 * (0 in held) - 0.1 * (1 in held)
    score += 0.12 * ({2, 3} <= held)
    return score + 0.1 * bool({4, 5} & held)


def records(sizes: tuple[int, ...] = (1, 2, 3), seed: int = 0) -> list[Record]:
    rng = np.random.default_rng(seed)
    sets = [s for n in sizes for s in itertools.combinations(range(N), n)]
    return [
        Record(
            number=i,
            state=TrialState.COMPLETE,
            layers=LayerSet(s),
            questions=QUESTIONS,
            score=float(rng.binomial(QUESTIONS, truth(s)) / QUESTIONS),
            fidelity="full",
        )
        for i, s in enumerate(sets)
    ]


def of(effects: tuple[Effect, ...], *layers: int) -> Effect:
    return next(e for e in effects if e.layers.indices == layers)


def test_effects_and_synergies_are_found_with_their_sign_and_their_size() -> None:
    found = explain(records(), SPACE)
    assert found is not None
    assert [e.layers.indices[0] for e in found.layers] == list(range(N))
    helps, harms, idle = (of(found.layers, i) for i in (0, 1, 6))
    assert helps.is_sure
    assert helps.effect == pytest.approx(0.15, abs=0.02)
    assert harms.is_sure
    assert harms.effect == pytest.approx(-0.1, abs=0.02)
    assert abs(idle.effect) < 0.015
    together, instead = of(found.pairs, 2, 3), of(found.pairs, 4, 5)
    assert together.is_sure
    assert together.effect == pytest.approx(0.12, abs=0.05)
    assert instead.is_sure
    assert instead.effect == pytest.approx(-0.1, abs=0.05)
    assert {e.layers.indices for e in found.pairs[:2]} == {(2, 3), (4, 5)}
    assert together.sets == 7
    assert found.sets == len(records())


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    hits = []
    for seed in range(12):
        found = explain(records(seed=seed), SPACE)
        assert found is not None
        for layer, effect in ((0, 0.15), (1, -0.1), (6, 0.0), (7, 0.0)):
            one = of(found.layers, layer)
            hits.append(one.ci_low <= effect <= one.ci_high)
    assert np.mean(hits) >= 0.85


def test_what_was_never_seen_together_is_not_listed_and_few_sets_say_nothing() -> None:
    found = explain(records(sizes=(1,)), SPACE)
    assert found is not None
    assert found.pairs == ()
    assert explain(records(sizes=(1,))[:5], SPACE) is None
    assert explain([], SPACE) is None


def test_fewer_questions_make_it_less_sure() -> None:
    many = explain(records(), SPACE)
    few = explain(
        [Record(**{**_plain(r), "questions": 40}) for r in records()],  # type: ignore[arg-type]
        SPACE,
    )
    assert many is not None
    assert few is not None
    wide, narrow = of(few.layers, 0), of(many.layers, 0)
    assert wide.ci_high - wide.ci_low > narrow.ci_high - narrow.ci_low


def _plain(record: Record) -> dict[str, object]:
    return {
        "number": record.number,
        "state": record.state,
        "layers": record.layers,
        "score": record.score,
        "fidelity": record.fidelity,
    }
