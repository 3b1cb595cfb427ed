"""What optuna-dashboard shows of a study beyond its trials: notes, figures, and reports.

Written when a search ends and while the dashboard runs, never by a worker at work; notes of trials
go in together, in one commit.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
from pydantic import ValidationError
from sqlalchemy.engine import make_url

from optlayers.config.study import StudyDefinition
from optlayers.report.document import figures, sections
from optlayers.report.images import titled
from optlayers.report.notes import MARK, study_note, trial_note
from optlayers.results.view import StudyView
from optlayers.storage.connect import DEFAULT_URL, DEFINITION
from optlayers.storage.dashboard import has_note, save_figures, save_trial_notes
from optlayers.storage.store import store_of
from optlayers.trials.record import Record

# The dashboard looks at every note for every trial: more of them would make it slow.
MOST_NOTES = 1500
# Its panels for figures are so high, and cut off what is higher.
PANEL_HEIGHT = 440
SHOWN = "optlayers:shown"
# Changes with what is drawn, so that studies of before are drawn anew.
LOOK = 4
ARTIFACTS_ENV = "OPTLAYERS_ARTIFACTS"
REPORTS = ("README.md", "checkpoint_info.json")


def annotate(study: optuna.Study, definition: StudyDefinition, shown_url: str) -> int:
    """Write what is missing: names, the study's note, the trials' notes, the figures.

    Returns the number of trials that got a note. Does nothing where nothing has finished since the
    last time. `shown_url` is the database's, without password, for the commands in the note.
    """
    view = StudyView.of(definition, study)
    records = [record for record in view.records if record.state.is_finished()]
    store = store_of(study)
    attrs = store.attrs()
    if attrs.get(SHOWN) == [LOOK, len(records)] or not records:
        return 0
    _write_study_note(study, view, shown_url, attrs)
    written = _write_trial_notes(study, view, records, attrs)
    _write_figures(study, view)
    store.put_attrs({SHOWN: [LOOK, len(records)]})
    return written


def _write_study_note(
    study: optuna.Study, view: StudyView, shown_url: str, attrs: dict[str, Any]
) -> None:
    from optuna_dashboard import get_note, save_note

    option = "" if shown_url == DEFAULT_URL else shown_url
    text = study_note(view.definition, option)
    old = get_note(study) if "dashboard:note_ver" in attrs else ""
    if text != old and (not old or MARK in old):
        save_note(study, text)


def _write_trial_notes(
    study: optuna.Study, view: StudyView, records: list[Record], attrs: dict[str, Any]
) -> int:
    """Notes of the trials that have none, the best first, in one commit."""
    chosen = sorted(records, key=lambda r: (not r.is_full, -(r.score or 0.0)))[:MOST_NOTES]
    store = store_of(study)
    notes = {
        record.number: trial_note(view, record)
        for record in chosen
        if not has_note(store, attrs, record.number)
    }
    save_trial_notes(study, notes)
    return len(notes)


def _write_figures(study: optuna.Study, view: StudyView) -> None:
    """All figures, in one commit."""
    import plotly.graph_objects as go

    drawn = {}
    for figure in figures(sections(view)):
        plot = titled(figure, columns=2)
        plot["layout"]["height"] = PANEL_HEIGHT
        if figure.height > 2 * PANEL_HEIGHT:
            # A name for every row would be one over the other.
            plot["layout"]["yaxis"] = {**plot["layout"]["yaxis"], "tickmode": "auto"}
        drawn[f"optlayers-{figure.name}"] = go.Figure(plot, skip_invalid=True)
    save_figures(study, drawn)


def annotate_all(storage: Any, shown_url: str) -> int:
    """`annotate` every study of optlayers in a database; how many trials got a note."""
    written = 0
    for name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
        stored = study.user_attrs.get(DEFINITION)
        try:
            definition = StudyDefinition.model_validate(stored)
        except ValidationError:
            # Not one of ours, or of another version.
            continue
        written += annotate(study, definition, shown_url)
    return written


# ------------------------------------------------------------------ artifacts


def artifact_folder(url: str) -> Path:
    """Where reports of exports lie: beside an SQLite database, else in this folder.

    The environment variable OPTLAYERS_ARTIFACTS names another place.
    """
    named = os.environ.get(ARTIFACTS_ENV)
    if named:
        return Path(named)
    database = make_url(url).database if url.startswith("sqlite") else None
    return (Path(database).parent if database else Path()) / "optuna-artifacts"


def keep_reports(study: optuna.Study, url: str, exports: Iterable[Path]) -> int:
    """Keep model card and checkpoint_info.json of exported checkpoints as the study's artifacts.

    An artifact of the same name is replaced. Returns how many files were kept.
    """
    from optuna.artifacts import FileSystemArtifactStore, upload_artifact

    folder = artifact_folder(url)
    folder.mkdir(parents=True, exist_ok=True)
    kept = 0
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("ignore")
        store = FileSystemArtifactStore(base_path=str(folder))
        old = _kept(study)
        for export in exports:
            for name in REPORTS:
                if not (export / name).is_file():
                    continue
                copy = Path(scratch) / f"{export.name}-{name}"
                shutil.copyfile(export / name, copy)
                before = old.get(copy.name)
                upload_artifact(artifact_store=store, file_path=str(copy), study_or_trial=study)
                if before is not None:
                    # As the dashboard removes one.
                    store_of(study).put_attrs({f"artifacts:{before}": json.dumps(None)})
                    (folder / before).unlink(missing_ok=True)
                kept += 1
    return kept


def _kept(study: optuna.Study) -> dict[str, str]:
    """The artifacts of a study by file name. Optuna's own list of them ends at a removed one."""
    attrs = store_of(study).attrs()
    found = [json.loads(text) for key, text in attrs.items() if key.startswith("artifacts:")]
    return {meta["filename"]: meta["artifact_id"] for meta in found if meta is not None}
