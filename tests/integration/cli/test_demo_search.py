"""What a newcomer does, through the real entry points: search, be killed, go on, export."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from optlayers.config.study import load_study
from tests.helpers.demo_search import trials
from tests.helpers.fresh import run_fresh
from tests.helpers.paths import ROOT
from tests.helpers.replay import url_in

BEST = [0, 10, 11, 15]


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "optlayers", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo was searched: killed -9 once in the middle, then finished."""
    folder = tmp_path_factory.mktemp("newcomer")
    with (folder / "first.log").open("w") as log:
        first = subprocess.Popen(
            [sys.executable, "-m", "optlayers", "search"], cwd=folder, stderr=log, stdout=log
        )
        deadline = time.monotonic() + 200
        while sum(t.state.is_finished() for t in trials(url_in(folder))) < 40:
            assert time.monotonic() < deadline, (folder / "first.log").read_text()
            assert first.poll() is None, (folder / "first.log").read_text()
            time.sleep(0.5)
        workers = {
            t.user_attrs["worker"] for t in trials(url_in(folder)) if "worker" in t.user_attrs
        }
        first.send_signal(signal.SIGKILL)
        for worker in workers:
            os.kill(int(worker.split(":")[1]), signal.SIGKILL)
        first.wait()
    # As `scripts/optlayers` does.
    done = run("search", "--workers", "2", cwd=folder, OPTLAYERS_CALLED_AS="scripts/optlayers")
    (folder / "second.out").write_text(done.stdout)
    (folder / "second.err").write_text(done.stderr)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_killed_search_goes_on_to_the_true_optimum(searched: Path) -> None:
    rows = json.loads(run("leaderboard", "--json", cwd=searched).stdout)
    assert rows[0]["layers"] == BEST
    assert rows[0]["fidelity"] == "full"
    assert rows[0]["ci_low"] < rows[0]["score"] < rows[0]["ci_high"]
    assert set(rows[0]) == {
        "rank", "layers", "n_layers", "score", "ci_low", "ci_high", "questions", "fidelity",
        "trial", "to_next", "to_best", "to_base", "to_donor", "held_out", "ties_with_best",
    }  # fmt: skip
    # Ten sets, base and donor have answered the held-out questions, and base and donor the others.
    assert all(row["held_out"]["questions"] == 256 for row in rows[:10])
    assert rows[0]["to_base"]["p_value"] < 0.001
    assert -0.2 < rows[0]["to_donor"]["difference"] <= 0.0
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))


def test_at_least_200_sets_were_looked_at_and_nothing_is_left_running(searched: Path) -> None:
    state: dict[str, Any] = json.loads(run("status", "--json", cwd=searched).stdout)
    assert set(state) == {
        "study", "phase", "trials", "distinct_layer_sets", "question_evaluations", "best"
    }  # fmt: skip
    assert state["phase"] == "done"
    assert state["distinct_layer_sets"] >= 200
    assert state["trials"]["running"] == state["trials"]["waiting"] == 0
    assert set(state["trials"]) == {"complete", "pruned", "running", "waiting", "failed"}
    assert state["best"]["layers"] == BEST


def test_no_question_of_a_layer_set_was_paid_for_twice(searched: Path) -> None:
    paid: dict[str, int] = defaultdict(int)
    reached: dict[str, int] = defaultdict(int)
    for trial in trials(url_in(searched)):
        layers = trial.user_attrs["layers"]
        paid[layers] += trial.user_attrs.get("evaluated", 0)
        reached[layers] = max(reached[layers], trial.user_attrs.get("questions", 0))
    for layers, questions in paid.items():
        # A trial killed after a rung has stored answers that it was never told to have paid for.
        assert questions <= reached[layers]


def test_every_phase_took_part_and_every_trial_keeps_the_budget(searched: Path) -> None:
    found = trials(url_in(searched))
    phases = {t.user_attrs["phase"] for t in found}
    # Nothing is left to validate where exploring has evaluated the best in full.
    assert {"probe", "explore", "refine"} <= phases <= {"probe", "explore", "validate", "refine"}
    search = [t for t in found if t.user_attrs["phase"] != "refine"]
    full = {t.user_attrs["layers"] for t in search if t.user_attrs.get("fidelity") == "full"}
    assert len(full) >= load_study("demo").validation.top
    for trial in found:
        donors = [name for name, value in trial.params.items() if value == "donor"]
        if trial.state.name in ("COMPLETE", "PRUNED"):
            assert 1 <= len(donors) <= 4
            assert len(trial.params) == 16
            assert trial.intermediate_values


def test_the_end_shows_what_to_do_next(searched: Path) -> None:
    shown = (searched / "second.out").read_text()
    assert "0,10,11,15" in shown
    assert "best of each size" in shown
    assert "held-out" in shown
    assert "  scripts/optlayers export-best --top 5 --out exports\n" in shown
    lines = (searched / "second.err").read_text()
    assert "questions/s" in lines
    assert "Traceback" not in lines


def test_searching_again_says_at_once_that_it_is_finished(searched: Path) -> None:
    started = time.monotonic()
    again = run("search", "--study", "demo", "--workers", "2", cwd=searched)
    assert time.monotonic() - started < 20
    assert again.returncode == 0
    assert again.stderr.startswith("study 'demo' is done\n")
    assert "0,10,11,15" in again.stdout


LOAD = """
import sys
assert "optlayers" not in sys.modules
from transformers import AutoModelForCausalLM, AutoTokenizer
for folder in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    prompt = "Which element has the symbol Fe?\\nA. Gold\\nB. Iron\\nC. Neon\\nD. Lead\\nAnswer:"
    tokens = tokenizer(prompt, return_tensors="pt")
    text = tokenizer.decode(model.generate(**tokens, max_new_tokens=1, do_sample=False)[0])
    print(text[len(prompt):])
"""


def test_the_best_five_are_exported_load_as_strangers_and_generate(searched: Path) -> None:
    done = run("export-best", "--top", "5", "--out", "exports", cwd=searched)
    assert done.returncode == 0, done.stderr
    folders = sorted((searched / "exports").iterdir())
    assert len(folders) == 5
    assert folders[0].name == "01-layers-0-10-11-15"
    info = json.loads((folders[0] / "checkpoint_info.json").read_text())
    assert info["layers"] == BEST
    assert info["score"]["ci_low"] < info["score"]["score"] < info["score"]["ci_high"]
    assert info["score"]["questions"] == 192
    assert len(info["donor"]["sha256"]["model.safetensors"]) == 64
    assert info["study"]["name"] == "demo"
    code = f"import sys; sys.path[:] = [p for p in sys.path if p != {str(ROOT)!r}]\n{LOAD}"
    answers = run_fresh(code, *folders, flags=("-I",), cwd=searched, timeout=300).splitlines()
    assert len(answers) == 5
    assert answers[0] == " B"


def test_eval_equals_lm_eval_on_the_exported_checkpoint(searched: Path) -> None:
    folder = searched / "one"
    assert run("export", "--layers", "0,10", "--out", str(folder), cwd=searched).returncode == 0
    mine = json.loads(
        run("eval", "--layers", "0,10", "--limit", "12", "--json", cwd=searched).stdout
    )
    assert set(mine) == {"layers", "score", "ci_low", "ci_high", "questions", "tasks"}
    assert mine["questions"] == 96
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args",
         f"pretrained={folder},trust_remote_code=True,dtype=float32", "--tasks", "demo",
         "--include_path", str(ROOT / "studies" / "demo" / "tasks"), "--limit", "12",
         "--device", "cpu", "--batch_size", "16", "--output_path", str(searched / "lm.json")],
        cwd=searched,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = next(searched.glob("lm*.json"))
    theirs = json.loads(report.read_text())["results"]
    assert theirs["demo"]["acc,none"] == pytest.approx(mine["score"], abs=1e-12)
    for name, score in mine["tasks"].items():
        assert theirs[name]["acc,none"] == pytest.approx(score, abs=1e-12)
    assert 0.3 < mine["score"] < 0.95
