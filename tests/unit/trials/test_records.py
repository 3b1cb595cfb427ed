from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search import search_space
from optlayers.trials import keys
from optlayers.trials.answers import decode_answers, encode_answers
from optlayers.trials.ranking import best_by_layers, given_up, held_out_key
from optlayers.trials.record import Record, RecordReader, read_record, read_records


def trial(state: TrialState, value: float | None = None, **attrs: Any) -> FrozenTrial:
    return create_trial(state=state, value=value, user_attrs=attrs)


def record(number: int, text: str, state: TrialState = TrialState.PRUNED, **more: Any) -> Record:
    return Record(number=number, state=state, layers=LayerSet.parse(text), **more)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 570])
def test_answers_survive_encoding(n: int) -> None:
    answers = np.random.default_rng(n).random(n) < 0.5
    assert np.array_equal(decode_answers(encode_answers(answers), n), answers)


def test_too_few_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="8 bits for 9 questions"):
        decode_answers(encode_answers(np.ones(8, np.bool_)), 9)


def test_a_trial_of_the_worker_is_read_by_its_attributes() -> None:
    answers = np.array([True, False, True])
    found = read_record(
        trial(
            TrialState.PRUNED,
            0.5,
            layers="3,7",
            phase="explore",
            goal="race",
            questions=3,
            score=0.66,
            fidelity="fast",
            generation=2,
            answers=encode_answers(answers),
        )
    )
    assert found is not None
    assert (found.layers, found.phase, found.goal) == (LayerSet.of(3, 7), "explore", "race")
    assert (found.questions, found.score, found.generation) == (3, 0.66, 2)
    assert found.answers is not None
    assert found.answers.tolist() == answers.tolist()
    assert found.is_evaluated
    assert not found.is_full


def test_a_plain_trial_is_read_by_its_parameters() -> None:
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial(LayerSpace(4).params(LayerSet.of(1, 2)))
    (waiting,) = read_records(study.trials)
    assert waiting.layers == LayerSet.of(1, 2)
    assert waiting.is_claimed
    asked = study.ask(search_space(LayerSpace(4)))
    asked.report(0.25, 40)
    study.tell(asked, 0.5)
    (done,) = read_records(study.trials)
    assert done.layers == LayerSet.of(1, 2)
    assert (done.score, done.questions, done.first_score, done.is_full) == (0.5, 40, 0.25, True)


def test_trials_without_layers_are_left_out() -> None:
    study = optuna.create_study()
    study.tell(study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}), 1.0)
    study.ask()
    assert read_records(study.trials) == []


def test_the_record_with_most_questions_wins_and_ties_go_to_the_lower_number() -> None:
    best = best_by_layers(
        [
            record(5, "1", score=0.4, questions=10),
            record(2, "1", TrialState.COMPLETE, score=0.3, questions=30),
            record(7, "1", score=0.9, questions=30),
            record(1, "2", TrialState.FAIL),
            record(3, "3", TrialState.RUNNING, score=0.5, questions=99),
        ]
    )
    assert {str(s): r.number for s, r in best.items()} == {"1": 2}


def test_a_set_is_given_up_after_three_failures_of_its_own() -> None:
    fault = {"worker": "w", "reason": "NaN in the logits"}
    failures = [record(i, "1", TrialState.FAIL, **fault) for i in range(3)]
    assert given_up(failures[:2]) == set()
    assert given_up(failures) == {LayerSet.of(1)}


@pytest.mark.parametrize("reason", ["", *keys.HARMLESS_REASONS])
def test_lost_workers_do_not_count_as_failures(reason: str) -> None:
    failures = [record(i, "1", TrialState.FAIL, worker="w", reason=reason) for i in range(9)]
    assert given_up(failures) == set()


def test_the_reader_reads_what_read_records_reads_and_sees_trials_finish() -> None:
    study = optuna.create_study(direction="maximize")
    reader = RecordReader()
    for i in range(6):
        asked = study.ask(search_space(LayerSpace(5)))
        assert reader.read(study.trials) == read_records(study.trials)
        study.tell(asked, i / 10)
        assert reader.read(study.trials) == read_records(study.trials)
    assert pickle.loads(pickle.dumps(reader)).read(study.trials) == read_records(study.trials)


def test_the_reader_keeps_two_studies_apart() -> None:
    reader = RecordReader()
    for value in (0.1, 0.2):
        study = optuna.create_study(direction="maximize")
        study.tell(study.ask(search_space(LayerSpace(3))), value)
        assert [r.score for r in reader.read(study.trials)] == [value]


def test_the_key_of_a_held_out_score_is_short_whatever_the_set() -> None:
    few, many = LayerSpace(32), LayerSpace(400, donors=("a" * 30, "b" * 30))
    assert held_out_key(LayerSet.of(3, 7), few) == "holdout:3,7"  # as version 0.1 wrote it
    sets = [many.whole(name) for name in many.donors]
    names = {held_out_key(layers, many) for layers in [*sets, LayerSet(sets[0].indices[:100])]}
    assert len(names) == 3
    assert max(map(len, names)) <= 512
