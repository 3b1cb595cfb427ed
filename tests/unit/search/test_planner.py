from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from optlayers.config.study import StudyDefinition
from optlayers.layerset import LayerSet
from optlayers.search import Goal, Phase, Plan, plan, sampler_for, single_layer_scores
from optlayers.trials import keys
from optlayers.trials.record import Record

N = 5


def definition(**changes: Any) -> StudyDefinition:
    fields: dict[str, Any] = {
        "name": "small",
        "base": {"model": "base"},
        "donor": {"model": "donor"},
        "layers": {"min": 1, "max": 2},
        "tasks": [{"name": "made_up"}],
        "explore": {"population": 3, "generations": 2, "patience": 5},
        "validate": {"top": 4},
        "refine": {"top": 1, "verify": 2, "rounds": 3},
        "prior": {"single_layer_scores": [0.5, 0.4, 0.3, 0.2, 0.1]},
    }
    return StudyDefinition.model_validate({**fields, **changes})


class TrialLog:
    """Records written one by one."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def add(
        self,
        text: str,
        score: float | None,
        phase: str,
        *,
        full: bool = False,
        state: TrialState | None = None,
        **more: Any,
    ) -> None:
        default = TrialState.COMPLETE if full else TrialState.PRUNED
        self.records.append(
            Record(
                number=len(self.records),
                state=default if state is None else state,
                layers=LayerSet.parse(text),
                phase=phase,
                goal=more.pop("goal", "full" if full else "fast"),
                questions=None if score is None else 100 if full else 10,
                score=score,
                fidelity="" if score is None else "full" if full else "fast",
                **more,
            )
        )

    def plan(self, study: StudyDefinition, k: int = 99) -> Plan:
        # Any order of the trials must give the same plan.
        shuffled = [
            self.records[i] for i in np.random.default_rng(0).permutation(len(self.records))
        ]
        found = plan(study, N, shuffled, sampler_for(study, N, 0), k)
        assert found == plan(study, N, self.records, sampler_for(study, N, 0), k)
        return found


def texts(found: Plan) -> list[str]:
    return [str(p.layers) for p in found.proposals]


def explored() -> TrialLog:
    """Six finished explore trials: two full, four pruned."""
    history = TrialLog()
    for text, score, full in (
        ("0", 0.5, True),
        ("0,1", 0.6, True),
        ("0,2", 0.55, False),
        ("1,2", 0.45, False),
        ("3", 0.2, False),
        ("4", 0.1, False),
    ):
        history.add(text, score, "explore", full=full, goal="race")
    return history


def test_probe_proposes_every_single_layer_once() -> None:
    study = definition(prior={}, layers={"min": 2, "max": 2})
    history = TrialLog()
    found = history.plan(study, k=3)
    assert found.phase is Phase.probe
    assert texts(found) == ["0", "1", "2", "3", "4"]
    assert {p.goal for p in found.proposals} == {Goal.step}
    greedy = definition(
        prior={}, layers={"min": 2, "max": 2}, explore={"population": 3, "sampler": "greedy"}
    )
    assert {p.goal for p in history.plan(greedy).proposals} == {Goal.fast}
    for i in range(4):
        history.add(str(i), 0.1 * i, "probe")
    history.add("4", None, "probe", state=TrialState.RUNNING)
    waiting = history.plan(study)
    assert waiting == Plan(Phase.probe, waiting=True)


def test_a_prior_skips_the_probe() -> None:
    found = TrialLog().plan(definition())
    assert found.phase is Phase.explore
    assert {p.goal for p in found.proposals} == {Goal.step}
    assert len(found.proposals) == 6


def test_single_layer_scores_come_from_the_prior_or_the_probe() -> None:
    assert single_layer_scores([], definition(), N) == [0.5, 0.4, 0.3, 0.2, 0.1]
    study = definition(prior={})
    assert single_layer_scores([], study, N) is None
    history = TrialLog()
    for i in range(4):
        history.add(str(i), 0.1 * i, "probe")
    history.add("2", 0.9, "validate", full=True)
    assert single_layer_scores(history.records, study, N) == pytest.approx(
        [0.0, 0.1, 0.2, 0.3, 0.15]
    )


def test_explore_claims_no_more_than_its_budget_and_waits_for_the_last() -> None:
    history = TrialLog()
    for i in range(4):
        history.add(f"{i},{i + 1}", 0.1 * i, "explore")
    history.add("0", None, "explore", state=TrialState.RUNNING)
    assert len(history.plan(definition()).proposals) == 1
    history.add("1", None, "explore", state=TrialState.WAITING)
    assert history.plan(definition()) == Plan(Phase.explore, waiting=True)


def test_explore_ends_when_patience_is_out() -> None:
    study = definition(explore={"population": 2, "generations": 4, "patience": 1})
    history = TrialLog()
    for text, score in (("0", 0.1), ("1", 0.5), ("2", 0.2), ("3", 0.6)):
        history.add(text, score, "explore")
    assert history.plan(study).phase is Phase.explore
    history.add("4", 0.6, "explore")
    history.add("0,1", 0.3, "explore")
    assert history.plan(study).phase is Phase.validate


def test_what_has_paused_goes_on_and_what_is_beaten_does_not() -> None:
    study = definition(explore={"population": 6, "generations": 2, "patience": 5})
    history = TrialLog()
    for text, score, reason in (
        ("0", 0.5, keys.REASON_BEATEN),
        ("1", 0.1, ""),
        ("0,1", 0.9, ""),
        ("0,2", 0.8, ""),
        ("0,3", 0.8, keys.REASON_BEATEN),
    ):
        history.add(text, score, "explore", goal="step", reason=reason)
    found = {str(p.layers): p for p in history.plan(study).proposals}
    # One further rung for those that may be best; it starts where they stand.
    assert (found["0,1"].goal, found["0,1"].start) == (Goal.step, 10)
    assert not {"0", "0,3"} & found.keys()
    assert all((p.start, p.generation) == (0, 0) for p in found.values() if str(p.layers) == "2,4")
    # It is no set more, so it leaves room in the generations; and it never runs twice at once.
    history.add("0,1", None, "explore", goal="step", state=TrialState.RUNNING)
    assert "0,1" not in texts(history.plan(study))


def test_without_racing_nothing_pauses() -> None:
    study = definition(explore={"population": 6, "generations": 2, "pruner": "halving"})
    history = TrialLog()
    for text in ("0", "1", "0,1", "0,2", "0,3"):
        history.add(text, 0.5, "explore", goal="race")
    found = history.plan(study).proposals
    assert {p.goal for p in found} == {Goal.race}
    assert not {"0", "1", "0,1", "0,2", "0,3"} & {str(p.layers) for p in found}


def test_validation_scores_do_not_reopen_exploration() -> None:
    study = definition(explore={"population": 2, "generations": 4, "patience": 1})
    history = TrialLog()
    for text in ("0", "1", "2", "3"):
        history.add(text, 0.5, "explore")
    assert history.plan(study).phase is Phase.validate
    history.add("3", 0.9, "validate", full=True)
    assert history.plan(study).phase is Phase.validate


def test_explore_ends_when_every_set_is_seen() -> None:
    study = definition(layers={"min": 1, "max": 1}, explore={"population": 3, "generations": 9})
    history = TrialLog()
    for i in range(N):
        history.add(str(i), 0.1 * i, "explore")
    assert history.plan(study).phase is Phase.validate


def test_validate_takes_the_best_sets_in_full_as_far_as_they_are_not() -> None:
    history = explored()
    found = history.plan(definition())
    assert found.phase is Phase.validate
    assert texts(found) == ["0,2", "1,2"]
    assert {p.goal for p in found.proposals} == {Goal.full}
    # Two of the best three are evaluated in full already.
    assert texts(history.plan(definition(validate={"top": 3}))) == ["0,2"]
    # The list stays while its own trials finish, well or badly.
    history.add("0,2", 0.3, "validate", full=True)
    assert texts(history.plan(definition())) == ["1,2"]
    history.add("1,2", None, "validate", state=TrialState.RUNNING)
    assert history.plan(definition()) == Plan(Phase.validate, waiting=True)


def test_a_probed_set_outside_the_budget_is_no_candidate() -> None:
    study = definition(
        prior={}, layers={"min": 2, "max": 2}, explore={"population": 2, "generations": 1}
    )
    history = TrialLog()
    for i in range(N):
        history.add(str(i), 0.9, "probe")
    history.add("0,1", 0.5, "explore", goal="race")
    history.add("0,2", 0.4, "explore", goal="race")
    assert texts(history.plan(study)) == ["0,1", "0,2"]


def test_refine_looks_at_neighbours_fast_then_the_best_in_full_round_by_round() -> None:
    study = definition(validate={"top": 0})
    history = explored()
    first = history.plan(study)
    assert first.phase is Phase.refine
    assert {(p.goal, p.round) for p in first.proposals} == {(Goal.fast, 1)}
    # Neighbours of 0,1, less those evaluated already.
    assert texts(first) == ["0,3", "0,4", "1", "1,3", "1,4"]
    for text, score in zip(texts(first), (0.7, 0.1, 0.2, 0.65, 0.1), strict=True):
        assert history.plan(study).phase is Phase.refine
        history.add(text, score, "refine", round=1)
    second = history.plan(study)
    assert texts(second) == ["0,3", "1,3"]
    assert {(p.goal, p.round) for p in second.proposals} == {(Goal.full, 1)}
    history.add("1,3", 0.5, "refine", full=True, round=1)
    assert texts(history.plan(study)) == ["0,3"]
    history.add("0,3", 0.8, "refine", full=True, round=1)
    # 0,3 is better than all before, so a second round starts around it.
    third = history.plan(study)
    assert texts(third) == ["2,3", "3,4"]
    assert {(p.goal, p.round) for p in third.proposals} == {(Goal.fast, 2)}
    history.add("2,3", 0.3, "refine", round=2)
    history.add("3,4", 0.3, "refine", round=2)
    fourth = history.plan(study)
    assert texts(fourth) == ["0,2", "2,3"]
    assert {(p.goal, p.round) for p in fourth.proposals} == {(Goal.full, 2)}
    history.add("0,2", 0.5, "refine", full=True, round=2)
    history.add("2,3", 0.5, "refine", full=True, round=2)
    assert history.plan(study) == Plan(Phase.done)


def test_refine_ends_with_its_rounds() -> None:
    study = definition(validate={"top": 0}, refine={"top": 1, "verify": 1, "rounds": 0})
    assert explored().plan(study) == Plan(Phase.done)


def test_a_failed_set_is_proposed_again_and_given_up_after_three_faults() -> None:
    history = explored()
    for _ in range(2):
        history.add(
            "0,2", None, "validate", state=TrialState.FAIL, worker="w", reason="NaN in the logits"
        )
        assert texts(history.plan(definition())) == ["0,2", "1,2"]
    history.add("0,2", None, "validate", state=TrialState.FAIL, worker="w", reason=keys.REASON_LOST)
    assert texts(history.plan(definition())) == ["0,2", "1,2"]
    history.add("0,2", None, "validate", state=TrialState.FAIL, worker="w", reason="NaN again")
    # The next best takes its place.
    assert texts(history.plan(definition())) == ["1,2", "3"]


def test_when_fast_is_full_refinement_still_follows_what_it_finds() -> None:
    study = definition(validate={"top": 0})
    history = TrialLog()
    for text, score in (("0", 0.5), ("1", 0.1), ("2", 0.1), ("3", 0.1), ("4", 0.1), ("0,1", 0.4)):
        history.add(text, score, "explore", full=True, goal="race")
    first = history.plan(study)
    assert texts(first) == ["0,2", "0,3", "0,4"]
    for text, score in (("0,2", 0.9), ("0,3", 0.1), ("0,4", 0.1)):
        history.add(text, score, "refine", full=True, goal="fast", round=1)
    second = history.plan(study)
    assert {p.round for p in second.proposals} == {2}
    assert texts(second) == ["1,2", "2,3", "2,4"]
