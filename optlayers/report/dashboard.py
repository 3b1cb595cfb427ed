"""What optuna-dashboard shows of a study besides its trials: a note, figures, reports of exports.

Written when a search ends and while the dashboard runs, never by a working worker.
"""

from __future__ import annotations

import json
import os
import shlex
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
from optlayers.report.document import definition_text, figures, sections, study_argument
from optlayers.report.images import titled
from optlayers.report.tables import question
from optlayers.results.view import StudyView
from optlayers.storage.connect import DEFINITION
from optlayers.storage.dashboard import save_figures
from optlayers.storage.redact import MASK
from optlayers.storage.sqlite import plain_url
from optlayers.storage.store import store_of
from optlayers.storage.urls import DEFAULT_URL

# Height of its panels for figures, in pixels; it cuts off what is higher.
PANEL_HEIGHT = 440
# The system attribute with what was written last: its version, and the number of finished trials.
WRITTEN = "optlayers:shown"
# Raised when note or figures change, so that those of earlier versions are replaced.
VERSION = 5
# A note with this line is replaced; a note that somebody wrote is not.
MARK = "*Written by optlayers.*"
ARTIFACTS_ENV = "OPTLAYERS_ARTIFACTS"
REPORTS = ("README.md", "checkpoint_info.json")


def annotate_all(storage: Any, shown_url: str) -> None:
    """`annotate` every study of optlayers in a database."""
    for name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
        try:
            definition = StudyDefinition.model_validate(study.user_attrs.get(DEFINITION))
        except ValidationError:
            continue  # not a study of optlayers, or of another version
        annotate(study, definition, shown_url)


def annotate(study: optuna.Study, definition: StudyDefinition, shown_url: str) -> None:
    """Write the study's note and the figures; nothing if no trial has finished since the last call.

    shown_url: of the database, without its password, for the commands in the note.
    """
    from optuna_dashboard import get_note, save_note

    view, store = StudyView.of(definition, study), store_of(study)
    finished = sum(record.state.is_finished() for record in view.records)
    attrs, written = store.attrs(), [VERSION, finished]
    if attrs.get(WRITTEN) == written or not finished:
        return
    text = study_note(definition, "" if shown_url == DEFAULT_URL else shown_url)
    old = get_note(study) if "dashboard:note_ver" in attrs else ""
    if text != old and (not old or MARK in old):
        save_note(study, text)
    _write_figures(study, view)
    store.put_attrs({WRITTEN: written})


def _write_figures(study: optuna.Study, view: StudyView) -> None:
    import plotly.graph_objects as go

    drawn = {}
    for figure in figures(sections(view)):
        plot = titled(figure, columns=2)
        plot["layout"]["height"] = PANEL_HEIGHT
        if figure.height > 2 * PANEL_HEIGHT:
            # Names of all rows would overlap.
            plot["layout"]["yaxis"] = {**plot["layout"]["yaxis"], "tickmode": "auto"}
        drawn[f"optlayers-{figure.name}"] = go.Figure(plot, skip_invalid=True)
    save_figures(study, drawn)


# ------------------------------------------------------------------ note


def study_note(definition: StudyDefinition, shown_url: str) -> str:
    """What the study searches for, its definition, and the commands for it.

    shown_url: of the database, without its password; empty for the default.
    """
    name, study = definition.name, study_argument(definition.name)
    setup, option = "", f" --study {study}"
    if MASK in shown_url:
        setup = f"export OPTLAYERS_STORAGE={shlex.quote(shown_url)}  # the password for {MASK}\n"
    elif shown_url:
        option += f" --storage {shlex.quote(shown_url)}"
    if study != name:
        setup = f"# {study}: the study file, or the definition below\n{setup}"
    donor = definition.donor_names[0]
    of = "the donor" if definition.donors is None else f"donor {donor}"
    commands = "\n".join(
        f"optlayers {command}{option}{rest}"
        for command, rest in (
            ("search", ""),
            ("status", " --watch"),
            ("leaderboard", ""),
            ("report", " --out report.html"),
            ("export-best", " --top 5 --out exports"),
        )
    )
    return (
        f"# {name}\n\n{question(definition, '`')}\n\n"
        f"A trial is one layer set: `layer_07 = {donor}` puts layer 7 of {of} into the base. The "
        "objective, *score*, is the share of right answers. A pruned trial answered only part of "
        "the questions, and its score is less certain. The table under *Smart Selection* sorts "
        "trials by the user attributes `score`, `size` (number of layers), `questions`, "
        "`generation` and other numbers. The dashboard's importances are computed from complete "
        "trials alone. Nearly all of these have the best layers, which therefore look unimportant "
        "there. *What each layer adds* is computed from all trials.\n\n"
        f"```bash\n{setup}{commands}\n```\n\n```yaml\n{definition_text(definition)}```\n\n{MARK}\n"
    )


# ------------------------------------------------------------------ artifacts


def artifact_folder(url: str) -> Path:
    """The folder of reports of exports: next to an SQLite database, else in the current folder.

    The environment variable OPTLAYERS_ARTIFACTS names another one.
    """
    named = os.environ.get(ARTIFACTS_ENV)
    if named:
        return Path(named)
    database = make_url(plain_url(url)).database if url.startswith("sqlite") else None
    return (Path(database).parent if database else Path()) / "optuna-artifacts"


def keep_reports(study: optuna.Study, url: str, exports: Iterable[Path]) -> int:
    """Store model card and checkpoint_info.json of exported checkpoints as artifacts of the study.

    An artifact of the same name is replaced. Returns the number of files stored.
    """
    from optuna.artifacts import FileSystemArtifactStore, upload_artifact

    folder, store = artifact_folder(url), store_of(study)
    folder.mkdir(parents=True, exist_ok=True)
    # By file name. Optuna's own list of artifacts ends at a removed one.
    texts = [text for key, text in store.attrs().items() if key.startswith("artifacts:")]
    old = {meta["filename"]: meta["artifact_id"] for meta in map(json.loads, texts) if meta}
    files = [export / name for export in exports for name in REPORTS]
    files = [file for file in files if file.is_file()]
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("ignore")
        target = FileSystemArtifactStore(base_path=str(folder))
        for file in files:
            copy = Path(scratch) / f"{file.parent.name}-{file.name}"
            shutil.copyfile(file, copy)
            upload_artifact(artifact_store=target, file_path=str(copy), study_or_trial=study)
            if copy.name in old:
                # As the dashboard removes an artifact.
                store.put_attrs({f"artifacts:{old[copy.name]}": json.dumps(None)})
                (folder / old[copy.name]).unlink(missing_ok=True)
    return len(files)
