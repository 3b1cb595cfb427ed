"""`verify` and `doctor` through the real entry points, on the tiny pair."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_fetch import run

from optlayers.checkpoints.card import documents
from optlayers.checkpoints.reader import Checkpoint
from optlayers.checkpoints.writer import export_hybrid
from optlayers.evaluation.evaluator import open_pair
from optlayers.layerset import LayerSet
from optlayers.search import StratifiedScore, encode_answers
from optlayers.study import load_study

LAYERS = LayerSet.of(1, 4)
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def exported(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose recorded score the engine really gave."""
    import torch

    from optlayers.evaluation.evaluator import ModelEvaluator

    definition = load_study(str(tiny_study))
    evaluator = ModelEvaluator(definition, torch.device("cpu"), torch.float32)
    count = evaluator.order.n_full
    answers = evaluator.evaluate([LAYERS], 0, count)[0]
    assert not isinstance(answers, Exception)
    scorer = StratifiedScore(strata=evaluator.order.subject, weights=evaluator.order.weights)
    interval = scorer.interval(answers)
    score = {
        "score": interval.score,
        "ci_low": interval.ci_low,
        "ci_high": interval.ci_high,
        "questions": count,
        "fidelity": "full",
        "trial": 0,
        "answers": encode_answers(answers),
        "device": "cpu",
        "evaluated_sets": 1,
        "held_out": None,
    }
    base, donor = open_pair(definition)
    out = tmp_path_factory.mktemp("verify") / "hybrid"
    texts = documents(definition, base, donor, LAYERS, score)
    return export_hybrid(base, donor, LAYERS, out, donor.folder, texts)


def verify(folder: Path, study: Path, *more: str) -> tuple[int, str, str]:
    work = folder.parent
    return run(work, NOWHERE, "verify", str(folder), "--study", str(study), *more)


def test_an_honest_checkpoint_passes(exported: Path, tiny_study: Path) -> None:
    code, out, err = verify(exported, tiny_study, "--json")
    assert code == 0, err + out
    found = json.loads(out)
    assert found["passed"]
    assert found["questions"] == 1280
    assert found["common"] == 32
    assert found["differing"] == []
    assert found["mine"] == found["recorded"]
    assert found["generated"]


def test_another_models_weights_do_not_pass(
    exported: Path, tiny_study: Path, tiny_pair: Path, tmp_path: Path
) -> None:
    base, donor = (Checkpoint(name, tiny_pair / name) for name in ("base", "donor"))
    other = export_hybrid(base, donor, LayerSet.of(0, 2), tmp_path / "other", donor.folder, {})
    shutil.copyfile(exported / "checkpoint_info.json", other / "checkpoint_info.json")
    code, out, _ = verify(other, tiny_study)
    assert code == 1
    assert "answers differ from the recorded ones" in out
    assert out.rstrip().endswith("differs")


def test_a_broken_folder_is_one_line(exported: Path, tiny_study: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(exported, tmp_path / "broken"))
    (broken / "hybrid.py").write_text("raise RuntimeError('not today')\n")
    code, _, err = verify(broken, tiny_study, "--limit", "1")
    assert code == 1
    assert "generation: RuntimeError: not today (a fresh process without optlayers)" in err
    assert "Traceback" not in err
    (broken / "checkpoint_info.json").unlink()
    code, _, err = verify(broken, tiny_study)
    assert code == 2
    assert "name a folder that `optlayers export` wrote" in err


def test_another_definition_is_refused(exported: Path, tiny_study: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(tiny_study.read_text().replace("full: 4", "full: 5"))
    code, _, err = verify(exported, other)
    assert code == 2
    assert "name its file with --study" in err


def test_doctor_gives_a_verdict_a_row(tiny_study: Path, tmp_path: Path) -> None:
    code, out, err = run(tmp_path, NOWHERE, "doctor", "--study", str(tiny_study), "--json")
    assert code == 0, err
    rows = {row["what"]: row for row in json.loads(out)}
    assert list(rows) == [
        "Python", "torch", "GPU", "base", "donor", "memory", "disk", "database", "token", "kernels"
    ]  # fmt: skip
    assert {row["verdict"] for row in rows.values()} <= {"ok", "look", "mend"}
    assert rows["memory"]["verdict"] == "ok"
    assert "which the search will make" in rows["database"]["found"]
    assert not (tmp_path / "optuna.db").exists()
    code, out, _ = run(tmp_path, NOWHERE, "doctor", "--study", "full", "--json")
    rows = {row["what"]: row for row in json.loads(out)}
    assert "optlayers fetch --study full" in rows["donor"]["found"]
    assert "set HF_TOKEN" in rows["token"]["found"]
    code, out, _ = run(
        tmp_path, NOWHERE, "doctor", "--study", str(tiny_study), "--storage", "sqlite:////no/x.db"
    )
    assert code == 1
    assert "mend" in out


def test_every_script_of_this_part_runs_small(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, root / "scripts/bench_checkpoint.py", "--export-only", "--out", tmp_path],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "memory of the export" in (tmp_path / "checkpoint-demo-cpu.md").read_text()
