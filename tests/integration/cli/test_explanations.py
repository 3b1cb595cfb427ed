"""`patterns`, `leaderboard` and `--sampler` through the command line, on the replayed demo."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optlayers.config.study import load_study
from optlayers.storage.connect import open_study
from optlayers.trials import keys
from tests.helpers.commands import Commands
from tests.helpers.demo_search import search, write_replay

Said = Callable[..., str]


@pytest.fixture
def said(commands: Commands, demo_searched: Path) -> Said:
    """What a command prints about that search."""

    def here(*arguments: str) -> str:
        done = commands.run(demo_searched, list(arguments))
        assert done.code == 0, done.err
        return done.out

    return here


def test_patterns_name_the_layers_of_the_best_set_as_helping(said: Said) -> None:
    found: dict[str, Any] = json.loads(said("patterns", "--json"))
    assert [e["layers"] for e in found["layers"]] == [[i] for i in range(16)]
    helping = {e["layers"][0] for e in found["layers"] if e["sure"] and e["effect"] > 0}
    assert {0, 10, 11} <= helping
    assert all(e["ci_low"] <= e["effect"] <= e["ci_high"] for e in found["layers"])
    assert found["pairs"]
    assert found["patterns"]
    text = said("patterns", "--top", "4")
    assert "helps" in text
    assert "pairs" in text
    assert "synergy" in text


def test_the_leaderboard_shows_differences_and_how_many_sets_were_compared(said: Said) -> None:
    rows = json.loads(said("leaderboard", "--top", "3", "--json"))
    assert rows[0]["layers"] == [0, 10, 11, 15]
    assert rows[0]["to_base"]["difference"] > 0.5
    assert 0.01 < rows[0]["to_next"]["p_value"] < 0.2
    assert rows[1]["to_best"]["difference"] < 0
    assert rows[1]["ties_with_best"] == (rows[1]["to_best"]["p_value"] >= 0.05)
    text = said("leaderboard", "--top", "3")
    assert "next" in text
    assert "base" in text
    assert "0,10,11,15" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "layer sets on" in text


def test_too_few_sets_are_an_error_of_one_line(commands: Commands, tmp_path: Path) -> None:
    begun = open_study(f"sqlite:///{tmp_path / 'optuna.db'}", load_study("demo"))
    begun.set_user_attr(keys.N_LAYERS, 16)
    code, _, err = commands.run(tmp_path, ["patterns"])
    assert code == 2
    last = err.splitlines()[-1]
    assert "too few evaluated layer sets" in last


def test_another_sampler_runs_the_same_study_and_does_not_mix(
    commands: Commands, tmp_path: Path
) -> None:
    write_replay(tmp_path)
    greedy = search(tmp_path, "--workers", "1", "--sampler", "greedy", "--pruner", "halving")
    out, _ = greedy.communicate(timeout=120)
    assert greedy.returncode == 0, (tmp_path / "err").read_text()
    assert json.loads(out)[0]["layers"] == [0, 10, 11, 15]
    # `search` would only print a study that is done; `worker` refuses it.
    code, _, err = commands.run(tmp_path, ["worker", "--replay", str(tmp_path / "replay.yaml")])
    assert code == 2
    assert "started with sampler 'greedy', not 'pattern-ga'" in err.splitlines()[-1]
    code, _, err = commands.run(tmp_path, ["search", "--sampler", "genetic"])
    assert code == 2
    assert "one of pattern-ga, tpe" in err.splitlines()[-1]
