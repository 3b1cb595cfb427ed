"""Notes in Markdown for optuna-dashboard: of the study, and of each trial."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.trial import TrialState

from optlayers.config.graft import Graft
from optlayers.config.study import shipped_studies
from optlayers.layerset import DONOR, ONE, Donors
from optlayers.report.figure import given_by, interval, percent, shown
from optlayers.search import Goal
from optlayers.storage.redact import MASK
from optlayers.trials import keys
from optlayers.trials.record import Record

# By it a note is known as ours; one that somebody wrote is left alone.
MARK = "*Written by optlayers.*"


def called(name: str) -> str:
    """What `--study` takes for a study of that name: a shipped name, or a file."""
    return name if name in {path.stem for path in shipped_studies()} else f"{name}.yaml"


def study_note(definition: dict[str, Any], text: str, shown_url: str) -> str:
    """What the study asks, its definition, and the commands that go with it."""
    name = definition["name"]
    option, first = f" --study {called(name)}", ""
    if MASK in shown_url:
        first = f"export OPTLAYERS_STORAGE={shlex.quote(shown_url)}  # the password for {MASK}\n"
    elif shown_url:
        option += f" --storage {shlex.quote(shown_url)}"
    given = given_by(definition)
    donors = " and ".join(f"`{model}`" for model in given)
    several = len(given) > 1
    one = definition["donors"][0]["name"] if several else DONOR
    of = f"donor {one}" if several else "the donor"
    budget, parts = definition["layers"], Graft(definition["swap"]).parts
    if called(name) != name:
        first = f"# {called(name)}: the study file, or what stands below\n{first}"
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
        f"# {name}\n\nWhich {budget['min']} to {budget['max']} {parts} of "
        f"{donors} to put into `{definition['base']['model']}`.\n\n"
        f"A trial is one layer set: `layer_07 = {one}` puts layer 7 of {of} into the base. The "
        "objective, *score*, is the share of right answers; a pruned trial ended on part of the "
        "questions, and its score flatters more. The table under *Smart Selection* sorts trials by "
        "the user attributes `score`, `size` (number of layers), `questions`, `generation` and "
        "others that are numbers. The dashboard's "
        "importances rest on complete trials alone, in which the best layers are nearly "
        "always the donor's, so that "
        "these look unimportant; *What each layer adds* rests on all trials.\n\n"
        f"```bash\n{first}{commands}\n```\n\n```yaml\n{text}```\n\n{MARK}\n"
    )


def trial_note(record: Record, subjects: Sequence[str], strata: Any, donors: Donors = ONE) -> str:
    """The set of a trial, its stage, and its answers by subject."""
    lines = [f"## Layers {shown(record.layers, donors)}", ""]
    lines += [_stage(record), ""]
    answers = record.answers
    if answers is not None and len(subjects) and len(strata) >= len(answers):
        mine = np.asarray(strata)[: len(answers)]
        asked = np.bincount(mine, minlength=len(subjects)).tolist()
        total = np.bincount(mine, weights=answers, minlength=len(subjects)).tolist()
        lines += ["| subject | right | questions | share |", "|---|--:|--:|--:|"]
        for name, r, n in zip(subjects, total, asked, strict=False):
            if n:
                lines.append(f"| {name} | {r:g} | {n} | {percent(r / n, 0)} |")
        lines.append("")
    return "\n".join([*lines, MARK, ""])


def _stage(record: Record) -> str:
    where = record.phase or "outside of the phases"
    if record.generation is not None:
        where += f", generation {record.generation}"
    if record.round is not None:
        where += f", round {record.round}"
    if record.state == TrialState.FAIL:
        return f"**Stage**: {where}; it failed: {record.reason or 'no reason was stored'}"
    span = ""
    if record.ci_low is not None and record.ci_high is not None:
        span = f" ({interval(record.ci_low, record.ci_high)})"
    score = f"{percent(record.score)}{span} on {record.questions} questions"
    if record.is_full:
        return f"**Stage**: {where}; **all questions**: {score}"
    ended = "asked the fast questions only"
    if record.goal == Goal.race or record.reason == keys.REASON_BEATEN:
        ended = "out of the race"
    elif record.goal == Goal.step:
        ended = "put off for better ones"
    return f"**Stage**: {where}; **{ended}**: {score}"
