from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from optuna.trial import TrialState

from optlayers.layerset import LayerSet
from optlayers.search import Goal, Outcome, Rungs, advance
from optlayers.search.rungs import by_rung, most_answers
from optlayers.trials.record import Record

QUESTIONS = Rungs(48, 192, np.zeros(192, dtype=np.intp))


def at(questions: int, goal: Goal, number: int = 0, inherited: int = 0) -> Record:
    record = Record(number, TrialState.RUNNING, LayerSet.of(number), goal=goal.value)
    if not questions:
        return record
    return QUESTIONS.at(record, np.ones(questions, dtype=np.bool_), inherited, {})


def outcome(record: Record, beaten: bool = False) -> Outcome:
    def prune(candidates: Sequence[Record], records: Sequence[Record]) -> set[int]:
        return {candidate.number for candidate in candidates} if beaten else set()

    return advance([record], [record], QUESTIONS, prune)[record.number]


@pytest.mark.parametrize("goal", list(Goal))
def test_a_set_with_all_answers_is_complete(goal: Goal) -> None:
    assert outcome(at(192, goal), beaten=True) is Outcome.COMPLETE


def test_a_fast_trial_pauses_at_the_fast_questions_and_races_before() -> None:
    assert outcome(at(48, Goal.fast), beaten=True) is Outcome.PAUSE
    assert outcome(at(24, Goal.fast)) is Outcome.CONTINUE
    assert outcome(at(24, Goal.fast), beaten=True) is Outcome.PRUNE


def test_a_step_pauses_after_one_rung_unless_it_is_beaten() -> None:
    assert outcome(at(24, Goal.step)) is Outcome.PAUSE
    assert outcome(at(24, Goal.step), beaten=True) is Outcome.PRUNE


def test_a_resumed_set_is_not_judged_twice_at_one_rung() -> None:
    assert outcome(at(24, Goal.step, inherited=24), beaten=True) is Outcome.CONTINUE
    assert outcome(at(48, Goal.step, inherited=24), beaten=True) is Outcome.PRUNE


def test_a_race_goes_on_until_it_is_beaten_and_a_full_trial_is_never_judged() -> None:
    assert outcome(at(48, Goal.race)) is Outcome.CONTINUE
    assert outcome(at(48, Goal.race), beaten=True) is Outcome.PRUNE
    assert outcome(at(48, Goal.full), beaten=True) is Outcome.CONTINUE


def test_the_cohort_is_judged_at_once_and_races_against_itself() -> None:
    cohort = [at(24, Goal.race, number) for number in range(3)] + [at(192, Goal.race, 3)]
    seen = []

    def prune(candidates: Sequence[Record], records: Sequence[Record]) -> set[int]:
        seen.append(([c.number for c in candidates], [r.number for r in records]))
        return {1}

    found = advance(cohort, cohort, QUESTIONS, prune)
    assert seen == [([0, 1, 2], [0, 1, 2, 3])]
    assert list(found.values()).count(Outcome.CONTINUE) == 2
    assert found[1] is Outcome.PRUNE


def test_sets_are_grouped_by_the_questions_they_answer_next() -> None:
    cohort = [at(0, Goal.full, 0), at(24, Goal.race, 1), at(24, Goal.full, 2), at(0, Goal.step, 3)]
    assert [(span, [r.number for r in group]) for span, group in by_rung(cohort, QUESTIONS)] == [
        ((0, 12), [0, 3]),
        ((24, 48), [1]),
        ((24, 192), [2]),
    ]


def test_the_record_with_most_answers_is_inherited() -> None:
    records = [at(24, Goal.step, 0), at(48, Goal.step, 0), at(24, Goal.step, 1)]
    assert most_answers(records, {LayerSet.of(0)}) == {LayerSet.of(0): records[1]}
