"""Compare the answers that a checkpoint gives with those that its study recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from optlayers.checkpoints.files import INFO
from optlayers.checkpoints.tokenizer import load_from
from optlayers.config.study import StudyDefinition
from optlayers.errors import ModelError
from optlayers.evaluation.questions import Subject, order_questions
from optlayers.evaluation.tasks import TaskSet
from optlayers.models.hybrid import HybridConfig
from optlayers.trials.answers import decode_answers
from optlayers.trials.statistics import StratifiedScore

# With another device or dtype near ties flip: at most this share of the answers.
MAX_FLIPPED = 0.05
# Where a metric is not right or wrong, rounding moves every value, and stored ones are rounded.
SAME_VALUE, NEAR_VALUE = 2e-5, 0.05
Z95 = 1.96
# The rounding of a recorded score.
SAME_SCORE = 1e-6

# By task and document: 1 (right), 0 (wrong), or between them.
AnswersByTask = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Verification:
    """The measured score, the questions that were also recorded, and which answers differ.

    `score` weights the subjects as the study does; `mine` and `recorded` are the plain means of
    the measured and the recorded answers to the `common` questions. All from 0 to 1.
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


@dataclass(frozen=True)
class RecordedAnswers:
    """The answers behind the recorded score of a checkpoint; empty where no score was recorded.

    faults: where the answers do not give that score.
    """

    subjects: list[Subject]
    answers: AnswersByTask = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, info: Mapping[str, Any], definition: StudyDefinition) -> RecordedAnswers:
        """From a `checkpoint_info.json`.

        Raises `ModelError` where the answers cannot be read, or are to other documents.
        """
        subjects = TaskSet.of(definition).subjects
        score = info.get("score")
        if not score or not score.get("answers"):
            return cls(subjects)
        for subject, digest in zip(subjects, score.get("documents") or (), strict=False):
            if digest not in ("", subject.digest):
                raise ModelError(
                    f"{INFO}: task {subject.name!r} has other documents now than when its answers "
                    "were recorded; restore its data, or search and export again"
                )
        order = order_questions(subjects, definition.questions)
        count = score["questions"]
        if not 0 < count <= order.n_full:
            raise ModelError(
                f"{INFO}: it records {count} answers, and the tasks have {order.n_full} questions "
                "now; export it again"
            )
        try:
            recorded = decode_answers(score["answers"], count)
        except (ValueError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{INFO}: the recorded answers cannot be read ({error}); export it again"
            ) from None
        answers: dict[str, dict[int, float]] = {}
        for s, document, answer in zip(order.subject, order.document, recorded, strict=False):
            answers.setdefault(subjects[s].name, {})[int(document)] = float(answer)
        given = StratifiedScore(strata=order.subject, weights=order.weights).score(recorded)
        if abs(given - score["score"]) <= SAME_SCORE:
            return cls(subjects, answers)
        fault = (
            f"{INFO} records a score of {100 * score['score']:.2f} %, and the answers that it "
            f"records give {100 * given:.2f} %"
        )
        return cls(subjects, answers, [fault])


def check_prompts(definition: StudyDefinition, folder: Path, limit: int | None) -> None:
    """Raise `TaskError` for a document that lm-eval cannot score, with a checkpoint's tokenizer."""
    tasks = TaskSet.of(definition, limit)
    tokenizer = load_from(folder, definition.trust_remote_code)
    tasks.prepare(tokenizer, HybridConfig.from_pretrained(folder))
    for number, subject in enumerate(tasks.subjects):
        tasks.questions([number] * subject.size, subject.numbers.tolist())


def compare(mine: AnswersByTask, recorded: RecordedAnswers, exact: bool) -> Verification:
    """Compare measured answers with the recorded ones.

    exact: the arithmetic was the same, so no answer may differ. Otherwise up to `MAX_FLIPPED` of
    the common questions may, if about as many became right as wrong (McNemar's test at 95 %).
    """
    number = {subject.name: i for i, subject in enumerate(recorded.subjects)}
    strata = np.array([number[task] for task, documents in mine.items() for _ in documents])
    values = np.array([value for documents in mine.values() for value in documents.values()])
    weights = np.array([subject.weight for subject in recorded.subjects])
    scorer = StratifiedScore(strata=strata, weights=weights / weights.sum())
    interval = scorer.interval(values == 1.0 if np.isin(values, (0.0, 1.0)).all() else values)
    common = [
        (task, document)
        for task, documents in recorded.answers.items()
        for document in documents
        if document in mine.get(task, {})
    ]
    old = np.array([recorded.answers[task][document] for task, document in common])
    new = np.array([mine[task][document] for task, document in common])
    far = np.abs(new - old) > (SAME_VALUE if exact else NEAR_VALUE)
    differing = [pair for pair, is_far in zip(common, far, strict=True) if is_far]
    gained = int((far & (new > old)).sum())
    lost = len(differing) - gained
    faults = []
    if exact and differing:
        faults.append(
            f"{len(differing)} of {len(common)} answers differ from the recorded ones, which the "
            f"same arithmetic gave; the first is {differing[0][0]} document {differing[0][1]}"
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
    return Verification(
        score=interval.score,
        ci_low=interval.ci_low,
        ci_high=interval.ci_high,
        questions=len(values),
        common=len(common),
        mine=float(new.mean()) if common else None,
        recorded=float(old.mean()) if common else None,
        differing=differing,
        faults=faults,
    )
