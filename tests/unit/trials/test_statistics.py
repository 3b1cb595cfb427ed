from __future__ import annotations

import math

import numpy as np
import pytest

from optlayers.trials.statistics import (
    Z95,
    StratifiedScore,
    paired_difference,
    prior_strength,
    shrunk,
    spearman,
    upper_p,
)


def test_the_score_is_the_weighted_mean_of_the_subjects_seen() -> None:
    plan = StratifiedScore(strata=np.array([0, 1, 0, 1, 2]), weights=np.array([0.5, 0.3, 0.2]))
    answers = np.array([True, False, False, True, True])
    assert plan.score(answers) == pytest.approx(0.5 * 0.5 + 0.3 * 0.5 + 0.2 * 1.0)
    # Without subject 2 its weight goes to the others.
    assert plan.score(answers[:4]) == pytest.approx(0.5)
    assert plan.score(answers[:1]) == 1.0


def test_without_weights_subjects_weigh_by_their_size() -> None:
    strata = np.array([0, 0, 0, 1])
    assert StratifiedScore(strata=strata).score(np.array([True, True, True, False])) == 0.75


def test_one_subject_gives_nearly_the_plain_wilson_interval() -> None:
    n, p = 2000, 0.6
    answers = np.arange(n) < n * p
    found = StratifiedScore.plain(n).interval(answers)
    scale = 1 + Z95**2 / n
    centre = (p + Z95**2 / (2 * n)) / scale
    half = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n)) / scale
    assert found.score == p
    assert found.ci_low == pytest.approx(centre - half, abs=1e-4)
    assert found.ci_high == pytest.approx(centre + half, abs=1e-4)


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("n", [1, 3, 200])
def test_all_right_or_all_wrong_still_has_a_width_within_0_and_1(right: bool, n: int) -> None:
    found = StratifiedScore(strata=np.arange(n) % 7).interval(np.full(n, right))
    assert 0.0 <= found.ci_low <= found.score <= found.ci_high <= 1.0
    assert found.ci_high - found.ci_low > 1.0 / (n + 10)


def test_the_interval_covers_the_truth_in_95_of_100_samples() -> None:
    rng = np.random.default_rng(0)
    chances = np.array([0.95, 0.7, 0.5, 0.3, 0.1])
    weights = np.array([0.4, 0.3, 0.1, 0.1, 0.1])
    plan = StratifiedScore(strata=np.arange(150) % 5, weights=weights)
    truth = float(chances @ weights)
    covered = 0
    for _ in range(2000):
        found = plan.interval(rng.random(150) < chances[plan.strata])
        covered += found.ci_low <= truth <= found.ci_high
    assert 0.935 <= covered / 2000 <= 0.985


def test_subjects_that_differ_narrow_the_interval() -> None:
    strata = np.arange(400) % 2
    answers = strata == 0
    plain = StratifiedScore.plain(400).interval(answers)
    stratified = StratifiedScore(strata=strata).interval(answers)
    assert stratified.ci_high - stratified.ci_low < 0.5 * (plain.ci_high - plain.ci_low)


def test_no_answers_and_ill_fitting_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="0 of 3 questions"):
        StratifiedScore.plain(3).score(np.zeros(0, np.bool_))
    with pytest.raises(ValueError, match="4 of 3 questions"):
        StratifiedScore.plain(3).score(np.zeros(4, np.bool_))
    with pytest.raises(ValueError, match="1 for 2 subjects"):
        StratifiedScore(strata=np.array([0, 1]), weights=np.array([1.0]))


def test_identical_answers_differ_by_0_at_p_1() -> None:
    answers = np.random.default_rng(1).random(50) < 0.5
    assert paired_difference(answers, answers).difference == 0.0
    assert paired_difference(answers, answers).p_value == 1.0


def test_the_difference_is_of_the_common_prefix() -> None:
    a = np.array([True, True, False, True])
    b = np.array([False, True])
    assert paired_difference(a, b).difference == pytest.approx(0.5)
    assert paired_difference(b, a).difference == pytest.approx(-0.5)


def test_many_discordant_questions_give_the_closed_form_of_mcnemar() -> None:
    a = np.zeros(4000, np.bool_)
    b = np.zeros(4000, np.bool_)
    a[:300], b[300:500] = True, True
    found = paired_difference(a, b)
    error = math.sqrt(500 / 4000 - found.difference**2) / math.sqrt(4000)
    assert found.difference == pytest.approx(100 / 4000)
    assert found.standard_error == pytest.approx(error, rel=0.01)
    assert found.p_value == pytest.approx(2 * upper_p(abs(found.difference) / error), rel=0.1)


def test_a_handful_of_discordant_questions_is_no_proof() -> None:
    a = np.zeros(1000, np.bool_)
    b = a.copy()
    b[:3] = True
    assert paired_difference(a, b).p_value > 0.1


def test_equal_sets_are_told_apart_at_the_stated_rate() -> None:
    rng = np.random.default_rng(2)
    strata = np.arange(240) % 8
    weights = rng.uniform(0.5, 1.5, 8)
    chances = rng.uniform(0.2, 0.9, 240)
    called = 0
    for _ in range(2000):
        a, b = rng.random(240) < chances, rng.random(240) < chances
        called += paired_difference(a, b, strata, weights).p_value < 0.05
    assert 0.03 <= called / 2000 <= 0.065


def test_shrinkage_moves_few_questions_further() -> None:
    assert shrunk(0.8, 10, 0.5, 10) == pytest.approx(0.65)
    assert shrunk(0.8, 90, 0.5, 10) == pytest.approx(0.77)
    assert shrunk(0.8, 0, 0.5, 10) == 0.5


def test_the_prior_strength_is_found_again_from_a_simulated_population() -> None:
    rng = np.random.default_rng(3)
    # A beta(a, b) population is worth a + b questions.
    truth = rng.beta(12, 18, 20_000)
    questions = np.full(truth.size, 100)
    scores = rng.binomial(100, truth) / 100
    assert prior_strength(scores, questions) == pytest.approx(30, rel=0.1)


def test_a_population_of_pure_noise_is_shrunk_hard_but_finitely() -> None:
    scores = np.full(20, 0.5)
    assert prior_strength(scores, np.full(20, 100.0)) == pytest.approx(1000.0)


def test_spearman_is_the_correlation_of_ranks() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert spearman(x, x**3) == pytest.approx(1.0)
    assert spearman(x, -x) == pytest.approx(-1.0)
    # 1 - 6 sum d^2 / (n (n^2 - 1)) with d = 1, -1, 1, -1, 0
    assert spearman(x, np.array([2.0, 1.0, 4.0, 3.0, 5.0])) == pytest.approx(0.8)
    # By hand, with ties: ranks 1.5 1.5 3 and 1 2.5 2.5.
    assert spearman(np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0])) == pytest.approx(0.5)
    assert math.isnan(spearman(x, np.ones(5)))


def test_the_interval_of_values_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    strata = np.arange(120) % 3
    plan = StratifiedScore(strata=strata, weights=np.array([0.5, 0.3, 0.2]))
    centres = np.array([0.9, 0.8, 0.95])
    truth = float(np.dot([0.5, 0.3, 0.2], centres))
    covered, width = 0, 0.0
    for _ in range(1000):
        found = plan.interval(centres[strata] + rng.uniform(-0.05, 0.05, 120))
        covered += found.ci_low <= truth <= found.ci_high
        width = found.ci_high - found.ci_low
    assert 0.925 <= covered / 1000 <= 0.985
    assert width < 0.02
    assert plan.interval(np.full(120, 1.0)).ci_high == 1.0


def test_values_are_compared_question_by_question() -> None:
    rng = np.random.default_rng(6)
    hard = rng.random(200)
    a, b = 0.3 + 0.5 * hard, 0.3 + 0.5 * hard - 0.01 + rng.normal(0, 0.005, 200)
    assert paired_difference(a, b).p_value < 1e-6
    assert paired_difference(a, a).p_value == 1.0
    level = [paired_difference(a + rng.normal(0, 0.05, 200), a).p_value < 0.05 for _ in range(1000)]
    assert 0.02 <= np.mean(level) <= 0.08
    # One value a subject says little, and does not say it loudly.
    alone = paired_difference(np.array([0.9, 0.4]), np.array([0.5, 0.3]), np.array([0, 1]))
    assert alone.p_value > 0.05
