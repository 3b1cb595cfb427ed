from __future__ import annotations

from pathlib import Path

from optuna.trial import TrialState
from replay import N_LAYERS, study_in

from optlayers.claims import MAX_RETRIES, Claims, is_gone, process_name
from optlayers.layerset import LayerSet
from optlayers.search import Goal, Phase, Proposal, keys

SET = LayerSet.of(1, 4)


def claims_in(folder: Path, worker: str | None = None) -> Claims:
    claims = Claims(study_in(folder), N_LAYERS, "cpu")
    claims.worker = worker or claims.worker
    return claims


def proposal(goal: Goal = Goal.race) -> Proposal:
    return Proposal(SET, Phase.explore, goal, generation=2)


def test_a_claim_is_a_running_trial_with_all_there_is_to_know(tmp_path: Path) -> None:
    claims = claims_in(tmp_path)
    [claim] = claims.take([proposal()])
    [trial] = claims.study.get_trials()
    assert trial.state == TrialState.RUNNING
    assert trial.params == SET.to_params(N_LAYERS)
    assert trial.user_attrs == {
        keys.LAYERS: "1,4",
        keys.GOAL: "race",
        keys.PHASE: "explore",
        keys.GENERATION: 2,
        keys.WORKER: process_name(),
        keys.DEVICE: "cpu",
    }
    assert claim.number == trial.number


def test_of_two_claims_of_one_set_the_lower_number_stands(tmp_path: Path) -> None:
    first, second = claims_in(tmp_path), claims_in(tmp_path, "elsewhere:1:1")
    [kept] = first.take([proposal()])
    assert second.take([proposal()]) == []
    states = {t.number: t for t in first.study.get_trials()}
    assert states[kept.number].state == TrialState.RUNNING
    assert states[1].state == TrialState.FAIL
    assert states[1].user_attrs[keys.REASON].startswith("duplicate: trial 0")


def test_a_claim_given_back_waits_and_is_taken_once(tmp_path: Path) -> None:
    claims = claims_in(tmp_path)
    claims.take([proposal()])
    claims.give_back()
    trials = claims.study.get_trials()
    assert [t.state for t in trials] == [TrialState.FAIL, TrialState.WAITING]
    [again] = claims.pop_waiting(trials, 5)
    assert (again.layers, again.goal) == (SET, Goal.race)
    assert claims_in(tmp_path, "elsewhere:1:1").pop_waiting(trials, 5) == []


def test_the_trials_of_a_dead_process_are_queued_again_a_few_times(tmp_path: Path) -> None:
    claims = claims_in(tmp_path)
    host, pid, start = process_name().rsplit(":", 2)
    dead = f"{host}:{pid}:{int(start) + 1}"  # this process number, but of another start
    assert is_gone(dead)
    assert not is_gone(process_name())
    assert not is_gone(f"another-host:{pid}:{start}")
    gone = claims_in(tmp_path, dead)
    gone.take([proposal()])
    for times in range(MAX_RETRIES + 1):
        assert claims.reap(claims.study.get_trials(deepcopy=False)) == 1
        waiting = [t for t in claims.study.get_trials() if t.state == TrialState.WAITING]
        assert len(waiting) == (1 if times < MAX_RETRIES else 0)
        gone.pop_waiting(waiting, 1)
    failed = [t for t in claims.study.get_trials() if t.state == TrialState.FAIL]
    assert len(failed) == MAX_RETRIES + 1
    reasons = [t.user_attrs[keys.REASON] for t in failed]
    assert all(reason.startswith("lost worker") for reason in reasons[:-1])
    # The last one counts against the layer set, which may be what ends its workers.
    assert not reasons[-1].startswith(keys.HARMLESS_REASONS)


def test_a_living_worker_is_not_reaped(tmp_path: Path) -> None:
    claims = claims_in(tmp_path)
    claims.take([proposal()])
    assert claims_in(tmp_path).reap(claims.study.get_trials(deepcopy=False)) == 0
