"""Landscape: the recorded answers of many layer sets, in one file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optlayers.errors import EvaluationError, InputError
from optlayers.evaluation.base import Evaluator
from optlayers.evaluation.questions import QuestionOrder, Subject
from optlayers.layerset import LayerSet
from optlayers.trials.statistics import FloatArray, StratifiedScore

LOG_STEP = 1 / 32  # nats between two values of a stored log-probability; the least is -8


@dataclass(frozen=True)
class Landscape:
    """Answers of layer sets to the search questions of a study, in the study's order.

    answers: bool [sets, n_full]. index: the row of each layer set. logs: the log-probability of the
    right choice to the fast questions, [sets, n_fast] in nats, where it was recorded.
    """

    n_layers: int
    order: QuestionOrder
    index: Mapping[LayerSet, int]
    answers: NDArray[np.bool_]
    logs: NDArray[np.float64] | None = None

    @classmethod
    def of(
        cls,
        n_layers: int,
        order: QuestionOrder,
        sets: Sequence[LayerSet],
        answers: NDArray[np.bool_],
        logs: NDArray[np.float64] | None = None,
    ) -> Landscape:
        """From rows in the order of `sets`."""
        return cls(n_layers, order, {layers: row for row, layers in enumerate(sets)}, answers, logs)

    @classmethod
    def record(cls, evaluator: Evaluator, sets: Sequence[LayerSet]) -> Landscape:
        """Evaluate the sets on all search questions; raises the `EvaluationError` of any set."""
        rows, logs = [], []
        n_fast, n_full = evaluator.order.n_fast, evaluator.order.n_full
        fast = evaluator.judge(sets, 0, n_fast)
        for first, rest in zip(fast, evaluator.evaluate(sets, n_fast, n_full), strict=True):
            if isinstance(first, EvaluationError):
                raise first
            if isinstance(rest, EvaluationError):
                raise rest
            rows.append(np.concatenate([first.answers, rest]))
            logs.append(first.logs)
        known = [found for found in logs if found is not None]
        kept = np.stack(known) if len(known) == len(rows) else None
        return cls.of(evaluator.n_layers, evaluator.order, sets, np.stack(rows), kept)

    @classmethod
    def load(cls, path: Path) -> Landscape:
        """Read what `save` wrote; raises `InputError` where the file is missing or another."""
        try:
            with np.load(path, allow_pickle=False) as data:
                columns = zip(data["subjects"], data["sizes"], data["weights"], strict=True)
                none = np.zeros(0, dtype=np.int64)
                order = QuestionOrder(
                    subjects=tuple(Subject(str(n), int(s), float(w)) for n, s, w in columns),
                    subject=data["subject"].astype(np.int64),
                    document=data["document"].astype(np.int64),
                    held_subject=none,
                    held_document=none,
                    n_fast=int(data["n_fast"]),
                )
                n_layers = int(data["n_layers"])
                sets = [
                    LayerSet(tuple(i for i in range(n_layers) if int(mask) >> i & 1))
                    for mask in data["masks"]
                ]
                answers = np.unpackbits(data["answers"], axis=1, count=order.n_full)
                logs = None if "logs" not in data else data["logs"] * -LOG_STEP
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(f"landscape {path}: {error}; record it again") from None
        return cls.of(n_layers, order, sets, answers.astype(np.bool_), logs)

    def save(self, path: Path) -> None:
        """Write a compressed .npz: answers 8 to a byte, log-probabilities in steps of a byte."""
        order, rows = self.order, list(self.index.values())
        more: dict[str, Any] = {}
        if self.logs is not None:
            steps = np.clip(np.round(self.logs[rows] / -LOG_STEP), 0, 255)
            more["logs"] = steps.astype(np.uint8)
        np.savez_compressed(
            path,
            n_layers=self.n_layers,
            n_fast=order.n_fast,
            subjects=np.array([s.name for s in order.subjects]),
            sizes=np.array([s.size for s in order.subjects]),
            weights=np.array([s.weight for s in order.subjects]),
            subject=order.subject.astype(np.uint16),
            document=order.document.astype(np.uint32),
            masks=np.array([sum(1 << i for i in layers) for layers in self.index], dtype=np.uint64),
            answers=np.packbits(self.answers[rows], axis=1),
            **more,
        )

    def logs_of(self, layers: LayerSet, start: int, stop: int) -> FloatArray | None:
        """The log-probabilities [stop - start] of a set; None where they were not recorded."""
        if self.logs is None or stop > self.order.n_fast:
            return None
        return np.asarray(self.logs[self.index[layers], start:stop])

    def scores(self) -> dict[LayerSet, float]:
        """The full score of every layer set."""
        scorer = StratifiedScore(strata=self.order.subject, weights=self.order.weights)
        return {layers: scorer.score(self.answers[row]) for layers, row in self.index.items()}
