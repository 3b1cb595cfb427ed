"""The study's note for optuna-dashboard."""

from __future__ import annotations

import json
from pathlib import Path

import optuna

from optlayers.config.study import parse_study
from optlayers.report.dashboard import keep_reports, study_note


def note(name: str = "mine", url: str = "") -> str:
    models = "base: {model: b}\ndonor: {model: d}\nlayers: {min: 1, max: 4}"
    text = f"name: {name}\n{models}\ntasks: [{{name: t}}]\n"
    return study_note(parse_study(text, "mine.yaml", Path()), url)


def test_the_commands_of_a_note_can_be_typed() -> None:
    assert "\noptlayers search --study mine.yaml\n" in note()
    assert "search --study mine.yaml --storage sqlite:///x.db\n" in note(url="sqlite:///x.db")


def test_a_shipped_study_is_called_by_its_name() -> None:
    assert "```bash\noptlayers search --study demo\n" in note("demo")


def test_a_password_is_asked_for_once_and_not_shown() -> None:
    assert (
        "\nexport OPTLAYERS_STORAGE='postgresql+psycopg://me:***@host/db'  # the password for ***\n"
        "optlayers search --study mine.yaml\n"
    ) in note(url="postgresql+psycopg://me:***@host/db")


def test_a_report_is_replaced_again_and_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    study = optuna.create_study(storage=url, study_name="mine")
    export = tmp_path / "01-layers-3"
    export.mkdir()
    for text in ("first", "second", "third"):
        (export / "README.md").write_text(text)
        assert keep_reports(study, url, [export]) == 1
        [kept] = (tmp_path / "optuna-artifacts").iterdir()
        assert kept.read_text() == text
        attrs = study._storage.get_study_system_attrs(study._study_id)
        listed = [json.loads(v) for k, v in attrs.items() if k.startswith("artifacts:")]
        assert [m["artifact_id"] for m in listed if m is not None] == [kept.name]
