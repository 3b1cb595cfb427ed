"""Databases and checkpoints of earlier versions, opened with today's code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from optlayers.models import HybridForCausalLM
from optlayers.search import RacingPruner
from optlayers.storage import heartbeat
from optlayers.storage.connect import open_study
from optlayers.testing import Landscape, ReplayEvaluator
from optlayers.workers import worker
from tests.helpers.earlier import DATA, STUDIES, VERSIONS, Earlier, unpack
from tests.helpers.invoke import invoke


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=STUDIES)
def study(request: pytest.FixtureRequest, version: str, tmp_path: Path) -> Earlier:
    return unpack(version, request.param, tmp_path)


def of(study: Earlier) -> list[str]:
    return ["--study", str(study.file), "--storage", study.url]


def status(study: Earlier) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(invoke("status", "--json", *of(study)))
    return found


def test_status_and_leaderboard_say_what_they_said(study: Earlier) -> None:
    assert status(study) == study.expected["status"]
    rows = json.loads(invoke("leaderboard", "--json", "--top", "4", *of(study)))
    assert rows == study.expected["leaderboard"]


def test_the_report_is_made(study: Earlier) -> None:
    out = study.folder / "report.json"
    invoke("report", "--out", str(out), *of(study))
    found = json.loads(out.read_text("utf-8"))
    best = study.expected["leaderboard"][0]
    assert found["entries"][0]["layers"] == best["layers"]


def search(study: Earlier, landscape: str, n_layers: int | None = None) -> None:
    """Go on with the search, its answers replayed."""
    evaluator = ReplayEvaluator(Landscape.load(DATA / study.version / f"{landscape}.npz"))
    evaluator.n_layers = n_layers or evaluator.n_layers
    opened = open_study(study.url, study.definition, pruner=RacingPruner(top_k=3))
    assert worker.Worker(study.definition, opened, evaluator, cohort=6).run()


def test_a_search_that_was_killed_is_finished(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "CONFIRM_SECONDS", 0.1)
    monkeypatch.setattr(worker, "REAP_SECONDS", 0.2)
    begun = unpack(version, "begun", tmp_path)
    search(begun, "one")
    now, then = status(begun), begun.expected["status"]
    assert now["phase"] == "done"
    assert now["trials"]["running"] == now["trials"]["waiting"] == 0
    assert now["trials"]["failed"] == then["trials"]["running"]
    # What was evaluated before the kill counts, and the same set is found as without it.
    assert now["distinct_layer_sets"] > then["distinct_layer_sets"]
    best = unpack(version, "one", tmp_path).expected["status"]["best"]
    assert (now["best"]["layers"], now["best"]["score"]) == (best["layers"], best["score"])


@pytest.mark.parametrize(("name", "n_layers"), [("one", None), ("two", 5)])
def test_a_finished_search_stays_finished(
    version: str, tmp_path: Path, name: str, n_layers: int | None
) -> None:
    done = unpack(version, name, tmp_path)
    search(done, name, n_layers)
    assert status(done) == done.expected["status"]


def test_a_checkpoint_loads_with_todays_classes(version: str) -> None:
    folder = DATA / version / "checkpoint"
    info = json.loads((folder / "checkpoint_info.json").read_text())
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert isinstance(model, HybridForCausalLM)
    assert not report["missing_keys"]
    assert model.config.donor_layers == info["layers"]
    with torch.inference_mode():
        assert model(torch.arange(1, 40)[None]).logits.isfinite().all()
