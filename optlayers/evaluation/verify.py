"""Verification of a checkpoint: what a stranger measures on it against what the study recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from optlayers.checkpoints.info import FILE
from optlayers.errors import InputError, ModelError
from optlayers.evaluation.questions import Subject, order_questions
from optlayers.search import StratifiedScore, decode_answers
from optlayers.study import StudyDefinition

# Where rounding differs (another device or dtype), near ties flip: this share of them may.
MAX_FLIPPED = 0.05
Z95 = 1.96

Answers = Mapping[str, Mapping[int, bool]]


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

    @property
    def passed(self) -> bool:
        """Whether nothing differs that should not."""
        return not self.faults


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
    if not isinstance(info, dict) or "study" not in info:
        raise ModelError(f"{path}: names no study; export it again")
    return info


def check_definition(info: Mapping[str, Any], definition: StudyDefinition, folder: Path) -> None:
    """Raise `InputError` unless a definition is the one that a checkpoint was made by."""
    study = info["study"]
    if study["fingerprint"] != definition.fingerprint():
        raise InputError(
            f"{folder}: made by study {study['name']!r} {study['fingerprint']}, and the definition "
            f"of {definition.name!r} is {definition.fingerprint()}; name its file with --study"
        )


def recorded_answers(
    info: Mapping[str, Any], definition: StudyDefinition, subjects: list[Subject]
) -> dict[str, dict[int, bool]]:
    """Right or wrong of each question that the recorded score rests on, by task and document."""
    score = info.get("score")
    if not score or not score.get("answers"):
        return {}
    count = int(score["questions"])
    right = decode_answers(score["answers"], count)
    order = order_questions(subjects, definition.questions)
    found: dict[str, dict[int, bool]] = {}
    for subject, document, answer in zip(
        order.subject[:count], order.document[:count], right, strict=True
    ):
        found.setdefault(subjects[int(subject)].name, {})[int(document)] = bool(answer)
    return found


def compare(mine: Answers, recorded: Answers, subjects: list[Subject], exact: bool) -> Verdict:
    """The verdict on what lm_eval answered; `exact`: rounding is no excuse.

    Otherwise up to `MAX_FLIPPED` of the common questions may differ, where they do so about as
    often in one direction as in the other (McNemar's test at 95 %).
    """
    number = {subject.name: i for i, subject in enumerate(subjects)}
    answers = [(number[t], right) for t, docs in mine.items() for right in docs.values()]
    weights = np.array([subject.weight for subject in subjects])
    scorer = StratifiedScore(
        strata=np.array([s for s, _ in answers]), weights=weights / weights.sum()
    )
    interval = scorer.interval(np.array([right for _, right in answers], dtype=np.bool_))
    common = [
        (task, document, right, mine[task][document])
        for task, documents in recorded.items()
        for document, right in documents.items()
        if document in mine.get(task, {})
    ]
    differing = [(task, document) for task, document, old, new in common if old != new]
    gained = sum(new and not old for _, _, old, new in common)
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
            f"{lost} answers that were right are wrong and {gained} the other way round, which is "
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
