"""Notes in Markdown for optuna-dashboard: of the study, and of each trial."""

from __future__ import annotations

import shlex

from optuna.trial import TrialState

from optlayers.config.study import StudyDefinition
from optlayers.report.document import definition_text, study_argument
from optlayers.report.formats import interval, layers_text, percent
from optlayers.report.tables import question
from optlayers.results.answers import subject_scores
from optlayers.results.view import StudyView
from optlayers.search import Goal
from optlayers.storage.redact import MASK
from optlayers.trials import keys
from optlayers.trials.record import Record

# Notes with this line are replaced; notes that somebody wrote are not.
MARK = "*Written by optlayers.*"


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


def trial_note(view: StudyView, record: Record) -> str:
    """The layer set of a trial, how far it came, and its answers by subject."""
    layers = layers_text(view.space.labels(record.layers))
    lines = [f"## Layers {layers}", "", _stage(record), ""]
    if record.answers is not None and view.scorer is not None and view.subject_names:
        scores = subject_scores(view.subject_names, view.scorer, record.answers)
        lines += ["| subject | right | questions | share |", "|---|--:|--:|--:|"]
        lines += [
            f"| {s.name} | {s.winner * s.questions:.6g} | {s.questions} | {percent(s.winner, 0)} |"
            for s in scores
        ]
        lines.append("")
    return "\n".join([*lines, MARK, ""])


def _stage(record: Record) -> str:
    where = record.phase or "outside the phases"
    if record.generation is not None:
        where += f", generation {record.generation}"
    if record.round is not None:
        where += f", round {record.round}"
    if record.state == TrialState.FAIL:
        return f"**Stage**: {where}; it failed: {record.reason or 'no reason was stored'}"
    score = f"{percent(record.score)} on {record.questions} questions"
    if record.ci_low is not None and record.ci_high is not None:
        span = interval(record.ci_low, record.ci_high)
        score = f"{percent(record.score)} ({span}) on {record.questions} questions"
    if record.is_full:
        outcome = "all questions"
    elif record.goal == Goal.race or record.reason == keys.REASON_BEATEN:
        outcome = "raced out"
    elif record.goal == Goal.step:
        outcome = "paused for better ones"
    else:
        outcome = "fast questions only"
    return f"**Stage**: {where}; **{outcome}**: {score}"
