"""How often a race stops a set that is as good as the best: rates over many drawn crowds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.search.racing import crowd as crowd_of
from benchmarks.search.racing import record
from optlayers.search import RacingPruner, rungs
from optlayers.trials.record import Record

Answers = npt.NDArray[np.bool_]


def contender(number: int, answers: Answers, steps: list[int] | None = None) -> Record:
    return record(number, answers, steps or [len(answers)])


def judge(
    pruner: RacingPruner, candidate: Record, records: Sequence[Record], **questions: Any
) -> bool:
    return bool(pruner.beaten([candidate], records, **questions))


class RacingSuite:
    """Rates that must hold; a subclass says over how many crowds."""

    crowds: int

    @pytest.mark.parametrize("top_k", [1, 3])
    @pytest.mark.parametrize("further", [True, False])
    def test_the_error_rate_holds_for_a_set_as_good_as_the_best(
        self, further: bool, top_k: int
    ) -> None:
        """The hardest case: all are equal, so any that looks best does so by luck."""
        rng = np.random.default_rng(0)
        n_fast, n_full, runs = 100, 400, self.crowds
        pruner = RacingPruner(top_k=top_k, alpha=0.1)
        steps = rungs(n_fast, n_full)
        wrong = 0
        for _ in range(runs):
            chance = rng.beta(3, 2, n_full)
            crowd = [
                contender(i, (rng.random(n_full) < chance)[: n_full if further else n_fast], steps)
                for i in range(30)
            ]
            answers = rng.random(n_full) < chance
            wrong += any(
                judge(pruner, contender(99, answers[:n], [n]), crowd, n_fast=n_fast, n_full=n_full)
                for n in steps[:-1]
            )
        # Two standard errors above the stated rate.
        assert wrong / runs <= 0.1 + 2 * (0.1 * 0.9 / runs) ** 0.5

    @pytest.mark.parametrize(
        ("share", "top_k", "right"),
        [
            (0.1, 1, (3.0, 2.0)),
            (0.3, 1, (3.0, 2.0)),
            (0.5, 3, (3.0, 2.0)),
            (0.1, 1, (1.0, 3.0)),
            (0.1, 1, (0.5, 4.5)),
            (0.3, 1, (9.0, 1.0)),
        ],
    )
    def test_the_error_rate_holds_where_the_luckiest_went_on(
        self, share: float, top_k: int, right: tuple[float, float]
    ) -> None:
        """Whoever leads a crowd was lucky on the first questions; newcomers are as good as all."""
        rng = np.random.default_rng(3)
        n_fast, n_full, runs = 48, 192, self.crowds // 2
        pruner = RacingPruner(top_k=top_k, alpha=0.1)
        steps = rungs(n_fast, n_full)
        assert steps[0] == 12
        lost = dict.fromkeys(("as good", "poor"), 0)
        for _ in range(runs):
            chance = rng.beta(*right, n_full)
            crowd = crowd_of(rng, chance, share, steps, size=60)
            for name, skill in (("as good", 1.0), ("poor", 0.15)):
                answers = rng.random(n_full) < skill * chance
                lost[name] += any(
                    judge(
                        pruner,
                        contender(999, answers[:n], [m for m in steps if m <= n]),
                        crowd,
                        n_fast=n_fast,
                        n_full=n_full,
                    )
                    for n in steps[:-1]
                )
        assert lost["as good"] / runs <= 0.1 + 2 * (0.1 * 0.9 / runs) ** 0.5
        if right == (3.0, 2.0):
            assert lost["poor"] / runs > 0.9

    def test_the_error_rate_holds_where_the_luckiest_have_just_arrived(self) -> None:
        """Nobody has gone further, but whoever is there was chosen; the newcomer was not."""
        rng = np.random.default_rng(4)
        steps, runs = [24, 48, 96, 192], self.crowds
        pruner = RacingPruner(top_k=1, alpha=0.1)
        lost = dict.fromkeys(("as good", "poor"), 0)
        for _ in range(runs):
            chance = rng.beta(3, 2, 48)
            crowd = crowd_of(rng, chance, 0.2, steps[:2])
            for name, skill in (("as good", 1.0), ("poor", 0.2)):
                answers = rng.random(48) < skill * chance
                newcomer = contender(999, answers, steps[:2])
                lost[name] += judge(pruner, newcomer, crowd, n_fast=96, n_full=192)
        # One of three looks.
        rate = 0.1 / 3
        assert lost["as good"] / runs <= rate + 2 * (rate * (1 - rate) / runs) ** 0.5
        assert lost["poor"] / runs > 0.8

    @pytest.mark.parametrize("top_k", [1, 3])
    def test_a_set_truly_at_place_k_is_lost_at_most_at_the_stated_rate(self, top_k: int) -> None:
        rng = np.random.default_rng(1)
        n_fast, n_full, runs = 100, 400, self.crowds
        pruner = RacingPruner(top_k=top_k, alpha=0.1)
        steps = rungs(n_fast, n_full)
        truth = [0.8, 0.75, 0.7, *np.linspace(0.65, 0.3, 27)]
        wrong = poor = 0
        for _ in range(runs):
            difficulty = rng.random(n_full)
            crowd = [
                contender(i, difficulty + rng.normal(0.0, 0.2, n_full) < p, steps)
                for i, p in enumerate(truth)
            ]
            for p, name in ((truth[top_k - 1], "good"), (0.4, "poor")):
                answers = difficulty + rng.normal(0.0, 0.2, n_full) < p
                out = any(
                    judge(
                        pruner, contender(99, answers[:n], [n]), crowd, n_fast=n_fast, n_full=n_full
                    )
                    for n in steps[:-1]
                )
                wrong += out and name == "good"
                poor += out and name == "poor"
        assert wrong / runs <= 0.1
        assert poor / runs > 0.9

    def test_reports_beside_the_rungs_are_looks_of_their_own(self) -> None:
        rng = np.random.default_rng(6)
        pruner = RacingPruner(top_k=1, alpha=0.1)
        steps, runs, wrong = list(range(8, 193, 8)), 3 * self.crowds // 4, 0
        for _ in range(runs):
            chance = rng.beta(3, 2, 192)
            crowd = [contender(i, rng.random(192) < chance, steps) for i in range(10)]
            answers = rng.random(192) < chance
            wrong += any(
                judge(
                    pruner,
                    contender(99, answers[:n], [m for m in steps if m <= n]),
                    crowd,
                    n_fast=48,
                    n_full=192,
                )
                for n in steps[:-1]
            )
        assert wrong / runs <= 0.1 + 2 * (0.1 * 0.9 / runs) ** 0.5
