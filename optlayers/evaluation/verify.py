"""Verification of a checkpoint: what a stranger measures on it against what the study recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from optlayers.checkpoints.hashes import differences
from optlayers.checkpoints.info import FILE
from optlayers.config.study import StudyDefinition
from optlayers.errors import InputError, ModelError
from optlayers.evaluation.questions import Subject, order_questions
from optlayers.evaluation.tasks import TaskSet
from optlayers.trials.record import decode_answers
from optlayers.trials.statistics import StratifiedScore

# Where rounding differs (another device or dtype), near ties flip: this share of them may.
MAX_FLIPPED = 0.05
# Where a metric is not right or wrong, rounding moves every value, and stored ones are rounded.
SAME_VALUE, NEAR_VALUE = 2e-5, 0.05
Z95 = 1.96
# A recorded score was computed from the recorded answers, and then rounded at most to this.
SAME_SCORE = 1e-6

# Whoever loads a folder runs its code, which these files hold or name.
RUNS = ("config.json", "tokenizer_config.json")

# By task and document: 1 (right), 0 (wrong), or between them.
Answers = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Verdict:
    """What was found: the stranger's score, the questions that both answered, and what differs.

    Scores are shares (0 to 1). `score` weights the subjects as the study does; `mine` and
    `recorded` are the plain shares of right answers on the `common` questions.
    """

    score: float
    ci_low: float
    ci_high: float
    questions: int
    common: int
    mine: float | None
    recorded: float | None
    differing: list[tuple[str, int]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def read_info(folder: Path) -> dict[str, Any]:
    """`checkpoint_info.json` of a folder; raises `ModelError` where it is none of an export."""
    path = folder / FILE
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{folder}: no {FILE} there; name a folder that `optlayers export` wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); export it again") from None
    if not isinstance(info, dict) or not _holds(info.get("study"), name=str, fingerprint=str):
        raise ModelError(f"{path}: names no study; export it again")
    score = info.get("score")
    if score is not None and not _holds(score, score=float, questions=int):
        raise ModelError(f"{path}: the recorded score cannot be read; export it again")
    return info


def _holds(data: Any, **kinds: type) -> bool:
    return isinstance(data, dict) and all(
        isinstance(data.get(key), kind) for key, kind in kinds.items()
    )


def check_definition(info: Mapping[str, Any], definition: StudyDefinition, folder: Path) -> None:
    """Raise `InputError` unless a definition is the one that a checkpoint was made by."""
    study = info["study"]
    if study["fingerprint"] != definition.fingerprint():
        raise InputError(
            f"{folder}: made by study {study['name']!r} {study['fingerprint']}, and the definition "
            f"of {definition.name!r} is {definition.fingerprint()}; name its file with --study"
        )


def changed_files(info: Mapping[str, Any], folder: Path) -> dict[str, str] | None:
    """The files that are not those that `export` wrote, and what is the matter with each.

    None where the checkpoint records no hashes: it was written by an early version. Raises
    `ModelError` where a file cannot be read.
    """
    recorded = info.get("files")
    if not recorded:
        return None
    if not isinstance(recorded, dict):
        raise ModelError(f"{folder / FILE}: `files` is no table of hashes; export it again")
    try:
        return differences(folder, recorded)
    except OSError as error:
        raise ModelError(f"{folder}: cannot be read ({error}); export it again") from None


def runs_changed_code(changed: Mapping[str, str]) -> bool:
    """Whether a folder with these changed files, once loaded, may run what `export` never wrote."""
    return any(name in RUNS or name.endswith(".py") for name in changed)


@dataclass(frozen=True)
class RecordedAnswers:
    """What a checkpoint says of its study: its answers by task and document, and what is wrong.

    `answers` are those that the recorded score rests on; none where no score was recorded.
    """

    subjects: list[Subject]
    answers: Answers = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, info: Mapping[str, Any], definition: StudyDefinition) -> RecordedAnswers:
        """Of a `checkpoint_info.json`; raises `ModelError` where the answers cannot be read."""
        subjects = TaskSet.of(definition).subjects
        score = info.get("score")
        if not score or not score.get("answers"):
            return cls(subjects)
        order = order_questions(subjects, definition.questions)
        right = _right(score, len(order.subject))
        places = zip(order.subject, order.document, right, strict=False)
        answers: dict[str, dict[int, float]] = {}
        for subject, document, answer in places:
            answers.setdefault(subjects[int(subject)].name, {})[int(document)] = float(answer)
        scorer = StratifiedScore(strata=order.subject, weights=order.weights)
        given = scorer.interval(right).score
        faults = []
        if abs(given - score["score"]) > SAME_SCORE:
            faults.append(
                f"{FILE} records a score of {100 * score['score']:.2f} %, and the answers that it "
                f"records give {100 * given:.2f} %"
            )
        return cls(subjects, answers, faults)


def _right(score: Mapping[str, Any], known: int) -> Any:
    """Right or wrong of each question of a recorded score, in the order of the `known` ones."""
    count = score["questions"]
    if not 0 < count <= known:
        raise ModelError(
            f"{FILE}: it records {count} answers, and the tasks have {known} questions now; "
            "export it again"
        )
    try:
        return decode_answers(score["answers"], count)
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{FILE}: the recorded answers cannot be read ({error}); export it again"
        ) from None


def compare(mine: Answers, recorded: RecordedAnswers, exact: bool) -> Verdict:
    """The verdict on what lm_eval answered; `exact`: rounding is no excuse.

    Otherwise up to `MAX_FLIPPED` of the common questions may differ, where they do so about as
    often in one direction as in the other (McNemar's test at 95 %).
    """
    number = {subject.name: i for i, subject in enumerate(recorded.subjects)}
    answers = [(number[t], value) for t, docs in mine.items() for value in docs.values()]
    weights = np.array([subject.weight for subject in recorded.subjects])
    scorer = StratifiedScore(
        strata=np.array([s for s, _ in answers]), weights=weights / weights.sum()
    )
    values = np.array([value for _, value in answers], dtype=np.float64)
    interval = scorer.interval(values == 1.0 if np.isin(values, (0.0, 1.0)).all() else values)
    common = [
        (task, document, value, mine[task][document])
        for task, documents in recorded.answers.items()
        for document, value in documents.items()
        if document in mine.get(task, {})
    ]
    near = SAME_VALUE if exact else NEAR_VALUE
    other = [one for one in common if abs(one[2] - one[3]) > near]
    differing = [(task, document) for task, document, _, _ in other]
    gained = sum(new > old for _, _, old, new in other)
    lost = len(differing) - gained
    faults = []
    if exact and differing:
        task, document = differing[0]
        faults.append(
            f"{len(differing)} of {len(common)} answers differ from the recorded ones, which the "
            f"same arithmetic gave; the first is {task} document {document}"
        )
    elif len(differing) > MAX_FLIPPED * len(common):
        faults.append(
            f"{len(differing)} of {len(common)} answers differ from the recorded ones; rounding "
            f"explains {100 * MAX_FLIPPED:.0f} % at most"
        )
    elif abs(gained - lost) > Z95 * max(1, len(differing)) ** 0.5:
        faults.append(
            f"{lost} answers are worse than recorded and {gained} are better, which is "
            "more than chance"
        )
    return Verdict(
        score=interval.score,
        ci_low=interval.ci_low,
        ci_high=interval.ci_high,
        questions=len(answers),
        common=len(common),
        mine=float(np.mean([new for *_, new in common])) if common else None,
        recorded=float(np.mean([old for _, _, old, _ in common])) if common else None,
        differing=differing,
        faults=faults,
    )
