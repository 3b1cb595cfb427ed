"""`verify` and `doctor` on the tiny pair; processes without optlayers use a checkpoint."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optlayers.checkpoints.card import documents
from optlayers.checkpoints.files import changed_files, runs_changed_code
from optlayers.checkpoints.info import read_info
from optlayers.checkpoints.parents import open_parents
from optlayers.config.study import load_study
from optlayers.errors import ModelError
from optlayers.layerset import LayerSet
from optlayers.trials.answers import encode_answers
from optlayers.trials.statistics import StratifiedScore
from tests.helpers.commands import Commands, Done
from tests.helpers.earlier import DATA, VERSIONS
from tests.helpers.hub import Hub
from tests.helpers.tiny import export, parents_in

LAYERS = LayerSet.of(1, 4)
NOWHERE = "http://127.0.0.1:9"

Verify = Callable[..., Done]
Doctor = Callable[..., Done]


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
    parents = open_parents(definition)
    out = tmp_path_factory.mktemp("verify") / "hybrid"
    texts = documents(definition, parents, LAYERS, score)
    return export(parents, LAYERS, out, texts)


@pytest.fixture
def verify(commands: Commands, tiny_study: Path, tmp_path: Path) -> Verify:
    """Runs the command on a folder, where no hub can be reached."""

    def ask(folder: Path, *more: str, study: Path = tiny_study) -> Done:
        words = ["verify", str(folder), "--study", str(study), *more]
        return commands.run(tmp_path, words, HF_ENDPOINT=NOWHERE)

    return ask


def test_an_honest_checkpoint_passes(exported: Path, verify: Verify) -> None:
    code, out, err = verify(exported, "--limit", "40", "--json")
    assert code == 0, err + out
    found = json.loads(out)
    assert found["passed"]
    assert found["verdict"] == "pass"
    assert found["files"] == len(list(exported.iterdir())) - 2
    assert found["faults"] == []
    assert found["questions"] == 8 * 40
    assert found["common"] > 4
    assert found["differing"] == []
    assert found["mine"] == found["recorded"]
    assert found["generated"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_checkpoint_of_an_earlier_version_passes(version: str, verify: Verify) -> None:
    folder = DATA / version / "checkpoint"
    code, out, err = verify(folder, "--limit", "40", study=DATA / version / "tiny.yaml")
    assert code == 0, err + out
    assert "0 answers differ" in out
    assert out.rstrip().endswith("checkpoint: pass")


def copy(exported: Path, tmp_path: Path, **info: object) -> Path:
    """A copy of the checkpoint, with fields of its `checkpoint_info.json` changed."""
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    path = folder / "checkpoint_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **info}))
    return folder


def test_the_hashes_are_those_of_what_was_written(exported: Path) -> None:
    files = json.loads((exported / "checkpoint_info.json").read_text())["files"]
    free = {"README.md", "checkpoint_info.json"}
    assert files.keys() == {path.name for path in exported.iterdir()} - free
    for name, sha in files.items():
        assert sha == hashlib.sha256((exported / name).read_bytes()).hexdigest(), name


def test_every_file_that_is_not_as_it_was_written_is_named(exported: Path, tmp_path: Path) -> None:
    folder = copy(exported, tmp_path)
    info = read_info(folder)
    assert changed_files(info, folder) == {}
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-4] ^= 1  # the last bit of the last value, which flips no answer
    (folder / "model.safetensors").write_bytes(data)
    (folder / "generation_config.json").unlink()
    (folder / "adapter_model.safetensors").write_bytes(b"")
    (folder / "README.md").write_text("My own words.")
    (folder / ".gitattributes").write_text("* text")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "notes.py").write_text("")
    changed = changed_files(info, folder)
    assert changed is not None
    assert list(changed) == [
        "generation_config.json", "model.safetensors", "adapter_model.safetensors"
    ]  # fmt: skip
    assert changed["generation_config.json"] == "is missing"
    assert changed["adapter_model.safetensors"] == "was added"
    now = hashlib.sha256(data).hexdigest()
    assert changed["model.safetensors"].startswith(f"was changed: its SHA-256 is {now}, and was ")
    assert not runs_changed_code(changed)
    assert changed_files({**info, "files": {}}, folder) is None
    with pytest.raises(ModelError, match="is not a table of hashes"):
        changed_files({**info, "files": ["hybrid.py"]}, folder)


@pytest.mark.parametrize("file", ["config.json", "hybrid.py", "more.py"])
def test_changed_code_is_named_and_never_run(
    exported: Path, verify: Verify, tmp_path: Path, file: str
) -> None:
    folder = copy(exported, tmp_path)
    before = (folder / file).read_text() if (folder / file).exists() else ""
    trace = tmp_path / "ran"
    code = f"open({str(trace)!r}, 'w')\n" if file.endswith(".py") else " "
    (folder / file).write_text(f"{code}{before}")
    exit_code, out, err = verify(folder, "--limit", "1")
    assert exit_code == 1, err
    assert f"differs: {file} was " in out
    assert "not loaded: that would run the changed code" in out
    assert out.rstrip().endswith("copy: differs")
    assert not trace.exists()


def test_another_models_weights_and_a_score_made_up_are_seen_without_hashes(
    exported: Path, verify: Verify, tiny_pair: Path, tmp_path: Path
) -> None:
    other = export(parents_in(tiny_pair), LayerSet.of(0, 2), tmp_path / "other")
    info = json.loads((exported / "checkpoint_info.json").read_text())
    del info["files"]
    info["score"]["score"] = 0.99
    (other / "checkpoint_info.json").write_text(json.dumps(info))
    code, out, _ = verify(other, "--limit", "40")
    assert code == 1
    assert "differs: checkpoint_info.json records a score of 99.00 %, and the answers" in out
    assert "answers differ from the recorded ones" in out
    assert "no hashes recorded" in out
    assert out.rstrip().endswith("differs")


def test_records_that_cannot_be_are_one_line(
    exported: Path, verify: Verify, tmp_path: Path
) -> None:
    score = read_info(exported)["score"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"score": {**score, "answers": "?"}}, "the recorded answers cannot be read"),
        ({"score": {**score, "questions": 2000}}, "it records 2000 answers, and the tasks"),
        ({"score": {"answers": score["answers"]}}, "the recorded score cannot be read"),
        ({"study": "tiny"}, "does not name a study; export it again"),
    ]
    for number, (wrong, words) in enumerate(cases):
        folder = copy(exported, tmp_path / str(number), **wrong)
        code, out, err = verify(folder, "--limit", "1")
        assert code == 2, err
        assert words in err
        assert "Traceback" not in err
        assert not out


def test_where_there_is_nothing_to_compare_it_does_not_say_pass(
    verify: Verify, tiny_study: Path, tmp_path: Path
) -> None:
    study = tmp_path / "real.yaml"
    study.write_text(tiny_study.read_text().replace("demo}", "demo, metric: logprob}"))
    definition = load_study(str(study))
    parents = open_parents(definition)
    texts = documents(definition, parents, LAYERS, None)
    folder = export(parents, LAYERS, tmp_path / "hybrid", texts)
    code, out, err = verify(folder, study=study)
    assert code == 0, err
    assert "loads and generates without optlayers: 'The capital of France is" in out
    assert "the study scores by logprob, which `optlayers eval` measures" in out
    assert "files are as they were written" in out
    assert out.rstrip().endswith("hybrid: not compared")


def test_a_broken_folder_is_one_line(exported: Path, verify: Verify, tmp_path: Path) -> None:
    broken = copy(exported, tmp_path, files={})
    (broken / "hybrid.py").write_text("raise RuntimeError('not today')\n")
    code, _, err = verify(broken, "--limit", "1")
    assert code == 1
    assert "generation: RuntimeError: not today (a fresh process without optlayers)" in err
    assert "Traceback" not in err
    (broken / "checkpoint_info.json").unlink()
    code, _, err = verify(broken)
    assert code == 2
    assert "name a folder that `optlayers export` wrote" in err


def test_weights_that_are_missing_or_cut_short_are_named(
    exported: Path, verify: Verify, tmp_path: Path
) -> None:
    folder = copy(exported, tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, out, _ = verify(folder, "--limit", "1")
    assert code == 1
    assert "differs: model.safetensors was changed" in out
    weights.unlink()
    code, out, err = verify(folder, "--limit", "1")
    assert code == 1
    assert "differs: model.safetensors is missing" in out
    assert "differs: generation: " in out
    assert out.rstrip().endswith("copy: differs")
    assert "Traceback" not in err + out


def test_another_definition_is_refused(
    exported: Path, verify: Verify, tiny_study: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(tiny_study.read_text().replace("full: 4", "full: 5"))
    code, _, err = verify(exported, study=other)
    assert code == 2
    assert "name its file with --study" in err


@pytest.fixture
def doctor(commands: Commands, tmp_path: Path) -> Doctor:
    """Runs the command where nothing was fetched and no hub can be reached."""

    def ask(*words: str) -> Done:
        home = str(tmp_path / "cache")
        return commands.run(tmp_path, ["doctor", *words], HF_ENDPOINT=NOWHERE, HF_HOME=home)

    return ask


def test_doctor_reports_one_check_per_row(tiny_study: Path, doctor: Doctor, tmp_path: Path) -> None:
    code, out, err = doctor("--study", str(tiny_study), "--json")
    assert code == 0, err
    rows = {row["what"]: row for row in json.loads(out)}
    assert list(rows) == [
        "Python", "torch", "GPU", "base", "donor", "pair", "tokenizer", "memory", "disk",
        "database", "token", "kernels",
    ]  # fmt: skip
    assert {row["verdict"] for row in rows.values()} <= {"ok", "warn"}
    assert rows["memory"]["verdict"] == "ok"
    assert "for models, the study and a checkpoint" in rows["disk"]["found"]
    assert "which the search will create" in rows["database"]["found"]
    assert not (tmp_path / "optuna.db").exists()
    code, out, _ = doctor("--study", "full", "--json")
    rows = {row["what"]: row for row in json.loads(out)}
    assert "optlayers fetch --study full" in rows["donor"]["found"]
    assert "set HF_TOKEN" in rows["token"]["found"]
    assert rows["disk"]["verdict"] == "warn"
    assert "whose size the hub does not say" in rows["disk"]["found"]
    code, out, _ = doctor("--study", str(tiny_study), "--storage", "sqlite:////no/x.db")
    assert code == 1
    assert "fail" in out


def test_doctor_asks_the_hub_what_is_to_be_fetched(
    commands: Commands, tiny_pair: Path, tmp_path: Path
) -> None:
    study = tmp_path / "far.yaml"
    study.write_text(f"name: far\nbase: {{model: org/base}}\ndonor: {{model: {tiny_pair}/donor}}\n")
    with study.open("a") as file:
        file.write("layers: {min: 1, max: 2}\ntasks: [{name: demo}]\n")
    base = tmp_path / "base"
    base.mkdir()
    with (base / "model.safetensors").open("wb") as file:
        file.truncate(10_000_000_000_000)  # takes no room itself
    (base / "pytorch_model.bin").write_bytes(b"never fetched")
    with Hub({"org/base": base}) as hub:
        home = str(tmp_path / "cache")
        words = ["doctor", "--study", str(study), "--json"]
        code, out, err = commands.run(tmp_path, words, HF_ENDPOINT=hub.url, HF_HOME=home)
    rows = {row["what"]: row for row in json.loads(out)}
    assert code == 1, err
    assert rows["disk"]["verdict"] == "fail"
    assert "GB needed; free some space" in rows["disk"]["found"]
    assert rows["base"]["verdict"] == "warn"
