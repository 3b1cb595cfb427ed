from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search import Goal, Outcome, Phase, Proposal
from optlayers.storage import heartbeat
from optlayers.storage.heartbeat import is_gone, process_name
from optlayers.trials import keys
from optlayers.trials.ranking import given_up
from optlayers.trials.record import read_records
from optlayers.workers.queue import ALONE_FROM, MAX_RETRIES, Claim, TrialQueue, check_not_all_failed
from tests.helpers.queue import SET, SPACE, answer, proposal, queue_in
from tests.helpers.replay import N_LAYERS, study_in


def test_a_claim_is_a_running_trial_with_all_there_is_to_know(tmp_path: Path) -> None:
    queue = queue_in(tmp_path)
    [claim] = queue.claim([proposal()])
    [trial] = queue.study.get_trials()
    assert trial.state == TrialState.RUNNING
    assert trial.params == LayerSpace(N_LAYERS).params(SET)
    assert trial.user_attrs == {
        keys.LAYERS: "1,4",
        keys.GOAL: "race",
        keys.PHASE: "explore",
        keys.GENERATION: 2,
        "size": 2,
        "set": "01 04",
        keys.WORKER: process_name(),
        keys.DEVICE: "cpu",
    }
    assert claim.number == trial.number


def test_a_set_that_another_has_in_hand_is_not_claimed_and_leaves_no_trial(tmp_path: Path) -> None:
    first, second = queue_in(tmp_path), queue_in(tmp_path, "elsewhere:1:1")
    [kept] = first.claim([proposal()])
    # Nor for more questions: it would pay for those that are being answered once more.
    assert second.claim([proposal(), proposal(Goal.fast), proposal(Goal.full)]) == []
    [trial] = first.study.get_trials()
    assert (trial.number, trial.state) == (kept.number, TrialState.RUNNING)


def test_of_two_claims_of_one_set_the_lower_number_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = queue_in(tmp_path), queue_in(tmp_path, "elsewhere:1:1")
    [kept] = first.claim([proposal()])

    # A database whose lock did not hold: the look at the others finds nothing.
    monkeypatch.setattr("optlayers.storage.fast.FastStore._active", lambda *_: {})
    assert second.claim([proposal()]) == []
    states = {t.number: t for t in first.study.get_trials()}
    assert states[kept.number].state == TrialState.RUNNING
    assert states[1].state == TrialState.FAIL
    assert states[1].user_attrs[keys.REASON].startswith("duplicate: trial 0")


def test_a_set_that_another_has_just_finished_is_not_claimed(tmp_path: Path) -> None:
    first, second = queue_in(tmp_path), queue_in(tmp_path, "elsewhere:1:1")
    [claim] = first.claim([proposal(Goal.fast)])
    answer(claim, 32)
    first.commit([(claim, Outcome.PAUSE)])
    assert second.claim([proposal(Goal.fast)]) == []
    assert second.study.get_trials()[1].user_attrs[keys.REASON].startswith("duplicate: trial 0")
    assert len(second.claim([proposal(Goal.full)])) == 1  # more questions than it was finished on


def test_a_set_that_paused_goes_on_once_from_where_it_stands(tmp_path: Path) -> None:
    first, second = queue_in(tmp_path), queue_in(tmp_path, "elsewhere:1:1")
    [claim] = first.claim([proposal(Goal.step)])
    answer(claim, 16)
    first.commit([(claim, Outcome.PAUSE)])
    assert keys.REASON not in first.study.get_trials()[0].user_attrs
    further = Proposal(SET, Phase.explore, Goal.step, start=16)
    [claim] = first.claim([further])
    assert second.claim([further]) == []
    answer(claim, 32)
    first.commit([(claim, Outcome.PRUNE)])
    # A plan from before that goes on from the same place comes too late.
    assert second.claim([further]) == []
    trial = first.study.get_trials()[claim.number]
    assert (trial.state, trial.user_attrs[keys.REASON]) == (TrialState.PRUNED, keys.REASON_BEATEN)


def test_a_claim_given_back_waits_and_is_taken_once(tmp_path: Path) -> None:
    queue = queue_in(tmp_path)
    queue.claim([proposal()])
    queue.release()
    trials = queue.study.get_trials()
    assert [t.state for t in trials] == [TrialState.FAIL, TrialState.WAITING]
    [again] = queue.claim_waiting(trials, 5)
    assert (again.layers, again.record.goal) == (SET, Goal.race)
    assert queue_in(tmp_path, "elsewhere:1:1").claim_waiting(trials, 5) == []


def test_the_trials_of_a_dead_process_are_queued_again_a_few_times(tmp_path: Path) -> None:
    queue = queue_in(tmp_path)
    host, pid, start = process_name().rsplit(":", 2)
    dead = f"{host}:{pid}:{int(start) + 1}"  # this process number, but of another start
    assert is_gone(dead)
    assert not is_gone(process_name())
    assert not is_gone(f"another-host:{pid}:{start}")
    gone = queue_in(tmp_path, dead)
    gone.claim([proposal()])
    for times in range(MAX_RETRIES + 1):
        assert queue.reap(queue.study.get_trials(deepcopy=False)) == 1
        waiting = [t for t in queue.study.get_trials() if t.state == TrialState.WAITING]
        assert len(waiting) == (1 if times < MAX_RETRIES else 0)
        gone.claim_waiting(waiting, 1)
    failed = [t for t in queue.study.get_trials() if t.state == TrialState.FAIL]
    assert len(failed) == MAX_RETRIES + 1
    reasons = [t.user_attrs[keys.REASON] for t in failed]
    assert all(reason.startswith("lost worker") for reason in reasons[:-1])
    # The last one counts against the layer set, which may be what ends its workers.
    assert not reasons[-1].startswith(keys.HARMLESS_REASONS)


def test_a_living_worker_is_not_reaped(tmp_path: Path) -> None:
    queue = queue_in(tmp_path)
    queue.claim([proposal()])
    assert queue_in(tmp_path).reap(queue.study.get_trials(deepcopy=False)) == 0


def test_a_worker_that_slept_too_long_leaves_its_lost_trials_alone(tmp_path: Path) -> None:
    sleeper, other = queue_in(tmp_path), queue_in(tmp_path)
    taken = sleeper.claim(
        [Proposal(LayerSet.of(layer), Phase.probe, Goal.fast) for layer in range(3)]
    )
    lost = {t.number: t for t in other.study.get_trials()}
    for claim in taken:
        assert other._requeue([lost[claim.number]], f"{keys.REASON_LOST}: silent", 1) == 1
    for claim in taken:
        answer(claim, 32)
        sleeper.commit([(claim, Outcome.CONTINUE)])
    sleeper.commit([(taken[0], Outcome.COMPLETE)])
    sleeper.commit([(taken[1], Outcome.PAUSE)])
    sleeper.fail(taken[2], "late")
    for trial in other.study.get_trials()[:3]:
        assert trial.state == TrialState.FAIL
        assert trial.user_attrs[keys.REASON] == "lost worker: silent"
        assert keys.ANSWERS not in trial.user_attrs
        assert trial.intermediate_values == {}


def test_a_failure_without_a_reason_counts_against_the_set_all_the_same(tmp_path: Path) -> None:
    queue = queue_in(tmp_path)
    for _ in range(3):
        [claim] = queue.claim([proposal()])
        queue.fail(claim, "")
    assert given_up(read_records(queue.study.get_trials())) == {SET}


def test_a_trial_whose_heartbeats_stopped_elsewhere_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = queue_in(tmp_path, "elsewhere:1:1")
    [claim] = queue.claim([proposal()])
    others = queue_in(tmp_path)
    assert others.reap(others.study.get_trials(deepcopy=False)) == 0
    # The first heartbeat is part of the claim, so a worker that dies at once is found as well.
    with sqlite3.connect(tmp_path / "optuna.db") as database:
        changed = database.execute(
            "UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-61 seconds') "
            "WHERE trial_id = ?",
            [queue.store.trial_id(claim.number)],
        )
        assert changed.rowcount == 1
    # It may have been the database that was unavailable: an old heartbeat is watched for a while.
    trials = others.study.get_trials(deepcopy=False)
    assert others.reap(trials) == 0
    monkeypatch.setattr(heartbeat, "CONFIRM_SECONDS", 0.2)
    time.sleep(0.3)
    assert others.reap(trials) == 1


def test_a_trial_without_any_heartbeat_is_lost_once_it_was_watched_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_in(tmp_path)
    study.ask()  # by a storage proxy, say, whose worker ended before its first beat
    queue = queue_in(tmp_path)
    assert queue.reap(study.get_trials(deepcopy=False)) == 0
    monkeypatch.setattr(heartbeat, "GRACE_SECONDS", 0.2)
    time.sleep(0.3)
    assert queue.reap(study.get_trials(deepcopy=False)) == 1


def test_a_worker_elsewhere_that_beats_is_not_lost_whatever_its_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "CONFIRM_SECONDS", 0.5)
    far, near = queue_in(tmp_path, "elsewhere:1:1"), queue_in(tmp_path)
    [claim] = far.claim([proposal()])
    for step in range(4):
        with sqlite3.connect(tmp_path / "optuna.db") as database:
            database.execute(
                "UPDATE trial_heartbeats SET heartbeat = datetime('now', ?)",
                [f"-{3600 - step} seconds"],
            )
        assert near.reap(near.study.get_trials(deepcopy=False)) == 0
        time.sleep(0.25)
    assert claim.number in far.heartbeats.held


def test_what_was_seen_before_the_database_was_unavailable_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(heartbeat, "HEARTBEAT_SECONDS", 0.1)
    queue_in(tmp_path, "elsewhere:1:1").claim([proposal()])
    queue = queue_in(tmp_path)
    assert queue.reap(queue.study.get_trials(deepcopy=False)) == 0
    time.sleep(0.5)  # five heartbeats long nobody looked
    assert queue.reap(queue.study.get_trials(deepcopy=False)) == 0


def test_heartbeats_are_renewed_while_a_claim_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = queue_in(tmp_path)
    monkeypatch.setattr(heartbeat, "HEARTBEAT_SECONDS", 0.1)
    beaten: list[set[int]] = []
    monkeypatch.setattr(queue.store, "beat", lambda held: beaten.append(set(held)))
    queue.heartbeats.start()
    first, second = queue.claim(
        [proposal(), Proposal(LayerSet.of(2), Phase.explore, Goal.race, generation=2)]
    )
    queue.fail(second, "NaN in the logits")
    time.sleep(0.5)
    queue.heartbeats.stop()
    assert len(beaten) >= 2
    assert beaten[-1] == {first.number}
    count = len(beaten)
    time.sleep(0.25)
    assert len(beaten) == count


def test_a_beat_changes_the_heartbeat_in_the_database(tmp_path: Path) -> None:
    queue = queue_in(tmp_path)
    [claim] = queue.claim([proposal()])
    with sqlite3.connect(tmp_path / "optuna.db") as database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = '2020-01-01 00:00:00'")
    assert queue.store.heartbeats()[claim.number][1] > 1e6
    queue.store.beat(queue.heartbeats.held)
    assert abs(queue.store.heartbeats()[claim.number][1]) < 60


def test_a_lost_set_keeps_its_answers_so_far(tmp_path: Path) -> None:
    first, second = queue_in(tmp_path, "elsewhere:1:1"), queue_in(tmp_path)
    [claim] = first.claim([proposal()])
    answer(claim, 32)
    first.commit([(claim, Outcome.CONTINUE)])
    second._requeue(second.study.get_trials(), f"{keys.REASON_LOST}: silent", 1)
    lost, again = read_records(second.study.get_trials())
    assert (lost.questions, lost.evaluated) == (32, 32)
    assert lost.answers is not None
    assert lost.answers.all()
    assert again.state == TrialState.WAITING


def test_a_set_that_was_lost_often_is_taken_alone(tmp_path: Path) -> None:
    queue = queue_in(tmp_path)
    sets = [LayerSet.of(layer) for layer in range(4)]
    queue.claim([Proposal(layers, Phase.probe, Goal.fast) for layers in sets])
    deadly, *others = queue.study.get_trials()
    queue._requeue([deadly], f"{keys.REASON_LOST}: silent", ALONE_FROM)
    queue._requeue(others, f"{keys.REASON_LOST}: silent", 1)

    def pop() -> list[LayerSet]:
        taken: list[Claim] = queue.claim_waiting(queue.study.get_trials(), 16)
        return [claim.layers for claim in taken]

    assert pop() == [sets[0]]
    assert pop() == sets[1:]


def test_a_set_that_is_lost_too_often_is_given_up_with_the_last_reason(tmp_path: Path) -> None:
    queue = queue_in(tmp_path)
    queue.claim([proposal()])
    reason = f"{keys.REASON_LOST}: RuntimeError: the device has left"
    queue._requeue(queue.study.get_trials(), reason, MAX_RETRIES + 1)
    [trial] = queue.study.get_trials()
    assert trial.state == TrialState.FAIL
    assert "4 tries; the last: RuntimeError: the device has left" in trial.user_attrs[keys.REASON]
    assert given_up(read_records([trial])) == {SET}


# ------------------------------------------------------------------ queued by others


@pytest.mark.parametrize("params", [SPACE.params(SET), {"layer_04": "donor", "layer_01": "donor"}])
def test_a_set_that_another_program_queued_is_claimed_as_one_of_explore(
    tmp_path: Path, params: dict[str, str]
) -> None:
    queue = queue_in(tmp_path)
    queue.study.enqueue_trial(params, user_attrs={"note": "mine"})
    [claim] = queue.claim_waiting(queue.study.get_trials(), 5)
    [trial] = queue.study.get_trials()
    assert (claim.number, claim.layers, claim.record.goal) == (0, SET, "race")
    assert (trial.state, trial.params) == (TrialState.RUNNING, SPACE.params(SET))
    wanted = {keys.LAYERS: "1,4", keys.PHASE: "explore", keys.GOAL: "race", "note": "mine"}
    assert trial.user_attrs.items() >= wanted.items()
    assert read_records([trial])[0].layers == SET
    # Its worker may leave as with any other.
    queue.release()
    assert [c.layers for c in queue.claim_waiting(queue.study.get_trials(), 5)] == [SET]


def test_a_set_of_several_donors_may_be_queued(tmp_path: Path) -> None:
    space = LayerSpace(N_LAYERS, 1, 3, ("a", "b"))
    queue = TrialQueue(study_in(tmp_path), space, "cpu")
    queue.study.enqueue_trial({"layer_04": "b", "layer_01": "a"})
    [claim] = queue.claim_waiting(queue.study.get_trials(), 5)
    assert space.text(claim.layers) == "1@a,4@b"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "it has 0 donor layers; the study allows 1 to 3"),
    (SPACE.params(LayerSet.of(1, 2, 3, 4)), "it has 4 donor layers; the study allows 1 to 3"),
    ({"layer_03": "dono"}, "layer_03 is 'dono'; expected base or donor"),
    ({"layer_03": 1}, "layer_03 is 1; expected base or donor"),
    ({"layer_99": "donor"}, "parameter 'layer_99'; expected layer_00 to layer_09"),
    ({"layer_3": "donor"}, "parameter 'layer_3'; expected layer_00 to layer_09"),
    ({"layer_²": "donor"}, "parameter 'layer_²'; expected layer_00 to layer_09"),
    ({"rate": 0.1}, "parameter 'rate'; expected layer_00 to layer_09"),
]


def test_what_is_queued_and_no_set_of_the_budget_is_failed_with_the_reason(tmp_path: Path) -> None:
    queue = queue_in(tmp_path)
    for params, _ in REFUSED:
        queue.study.enqueue_trial(params)
    queue.study.enqueue_trial({"layer_01": "donor"}, user_attrs={keys.LAYERS: "x", keys.GOAL: "y"})
    [claim] = queue.claim_waiting(queue.study.get_trials(), 5)
    assert claim.layers == LayerSet.of(1)
    *refused, taken = queue.study.get_trials()
    assert {trial.state for trial in refused} == {TrialState.FAIL}
    assert [t.user_attrs[keys.REASON] for t in refused] == [f"refused: {why}" for _, why in REFUSED]
    assert (taken.user_attrs[keys.LAYERS], taken.user_attrs[keys.GOAL]) == ("1", "race")
    # It says nothing of the study, nor of a layer set.
    check_not_all_failed(refused, least=1)
    assert given_up(read_records(refused * 3)) == set()


def test_of_one_set_queued_twice_one_trial_is_evaluated(tmp_path: Path) -> None:
    queue = queue_in(tmp_path)
    for _ in range(2):
        queue.study.enqueue_trial(SPACE.params(SET))
    assert len(queue.claim_waiting(queue.study.get_trials(), 5)) == 1
    assert queue.study.get_trials()[1].user_attrs[keys.REASON].startswith(keys.REASON_DUPLICATE)
