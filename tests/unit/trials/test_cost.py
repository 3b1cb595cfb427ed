"""What a layer set costs: bytes of cache and time of a step, and the front of score and cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import optlayers
from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import Checkpoint
from optlayers.config.fields import Explore, Refine, Validate
from optlayers.config.graft import Graft
from optlayers.evaluation.costs import kv_bytes, layer_costs
from optlayers.inference.stack import LayerStack
from optlayers.layerset import LayerSet
from optlayers.report.scores import score_by_size
from optlayers.results.leaderboard import front, leaderboard
from optlayers.results.view import StudyView
from optlayers.trials.cost import Cost, cost_of
from tests.helpers.records import record
from tests.helpers.tiny import cache_bytes, tiny_llama

CPU = torch.device("cpu")
SETS = [LayerSet(()), LayerSet.of(1, 4), LayerSet(tuple(range(6)))]


def stack_of(pair: Path, donor: Path | None = None, graft: Graft | None = None) -> LayerStack:
    base, given = Checkpoint("base", pair / "base"), Checkpoint("donor", donor or pair / "donor")
    return LayerStack.load(Parents(base, (given,)), CPU, torch.float32, graft=graft or Graft())


def test_kv_bytes_are_what_a_further_token_adds_to_the_cache_of_the_hybrid(
    tiny_study: Path, tiny_pair: Path
) -> None:
    table = layer_costs("kv_bytes", stack_of(tiny_pair))
    cost = Cost("kv_bytes", table)
    assert cost.of(LayerSet(())) == 0
    for layers in SETS:
        model = optlayers.load_hybrid(str(tiny_study), layers, device="cpu")
        assert cost.of(layers) == cache_bytes(model, 9) - cache_bytes(model, 8)


def test_a_window_stops_to_grow_and_a_cache_goes_with_its_mixer(
    tiny_pair: Path, tmp_path: Path
) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    config = tiny_llama().config.to_dict() | {"model_type": "mistral", "sliding_window": 4}
    MistralForCausalLM(MistralConfig(**config)).save_pretrained(tmp_path / "windowed")
    windowed = stack_of(tiny_pair, tmp_path / "windowed")
    assert kv_bytes(windowed.sides[1]) == [0.0] * 6
    for swap, grows in (("mixer", True), ("mlp", False)):
        stack = stack_of(tiny_pair, graft=Graft(swap))  # type: ignore[arg-type]
        base, donor = layer_costs("kv_bytes", stack)
        assert (sum(donor) > sum(base)) == grows


@pytest.mark.parametrize("graft", [Graft(), Graft("mixer", ((5, 4, 3, 2, 1, 0),)), Graft("mlp")])
def test_the_time_of_a_step_is_measured_once_for_each_kind_of_layer(
    tiny_pair: Path, graft: Graft
) -> None:
    base, donor = layer_costs("latency", stack_of(tiny_pair, graft=graft))
    assert len(base) == len(donor) == 6
    # Seconds: more than nothing, and less than a model this small could ever take.
    assert all(0 < seconds < 1 for seconds in (*base, *donor))
    assert len(set(base)) == len(set(donor)) == 1


def test_the_front_joins_sets_of_which_none_is_better_at_no_more_cost(tiny_study: Path) -> None:
    study = optlayers.load_study(str(tiny_study))
    found = [(0, (1,), 0.5), (1, (2,), 0.7), (2, (3, 4), 0.6), (3, (1, 3), 0.8), (4, (5,), 0.4)]
    records = [record(number, layers, score, 160) for number, layers, score in found]
    # Layers 3 and 4 of the donor are cheap, and layer 2 is dear.
    cost = Cost("latency", [[1.0] * 6, [1.5, 1.5, 4.0, 1.1, 1.1, 2.0]])
    rows = front(leaderboard(study, records, cost))
    assert [row.layers for row in rows] == [[3, 4], [1, 3]]
    assert [row.cost for row in rows] == pytest.approx([6.2, 6.6])
    assert [row.layers for row in front(leaderboard(study, records))] == [[2], [1, 3]]
    assert "cost" not in leaderboard(study, records)[0].to_dict()


def test_a_finished_study_is_measured_by_the_same_command_and_nothing_is_asked_again(
    tiny_study: Path, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'cost.db'}"
    study = optlayers.load_study(str(tiny_study)).model_copy(
        update={
            "explore": Explore(population=4, generations=1),
            "validation": Validate(top=2),
            "refine": Refine(top=0),
        }
    )
    plain = optlayers.search_study(study, url, device="cpu")
    assert plain.report().cost.table is None
    trials = len(plain.study.trials)
    for kind in ("kv_bytes", "latency"):
        mine = study.model_copy(update={"cost": kind})
        assert cost_of(mine, plain.study.user_attrs).table is None
        done = optlayers.search_study(mine, url, device="cpu")
        assert len(done.study.trials) == trials
        view = StudyView.of(mine, done.study)
        costs = [row.cost for row in view.leaderboard]
        assert all(cost is not None and cost > 0 for cost in costs)
        assert json.loads(json.dumps(done.leaderboard[0].to_dict()))["cost"] == costs[0]
        figure = score_by_size(view)
        assert figure is not None
        assert figure.head[0] == view.cost.title
        drawn = next(d for d in (figure.plot or {})["data"] if d["name"] == "best of its cost")
        assert drawn["x"] == sorted(drawn["x"])
    stored = done.study.user_attrs["cost:latency"]
    optlayers.search_study(mine, url, device="cpu")
    assert plain.study.user_attrs["cost:latency"] == stored
