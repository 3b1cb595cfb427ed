"""The study's note for optuna-dashboard."""

from __future__ import annotations

from optlayers.report.notes import study_note

DEFINITION = {
    "name": "mine",
    "layers": {"min": 1, "max": 4},
    "swap": "layer",
    "base": {"model": "b"},
    "donor": {"model": "d"},
}


def test_the_commands_of_a_note_can_be_typed() -> None:
    assert "\noptlayers search --study mine\n" in study_note(DEFINITION, "", "")
    assert "search --study mine --storage sqlite:///x.db\n" in study_note(
        DEFINITION, "", "sqlite:///x.db"
    )


def test_a_password_is_asked_for_once_and_not_shown() -> None:
    note = study_note(DEFINITION, "", "postgresql+psycopg://me:***@host/db")
    assert (
        "\nexport OPTLAYERS_STORAGE='postgresql+psycopg://me:***@host/db'  # the password for ***\n"
        "optlayers search --study mine\n"
    ) in note
