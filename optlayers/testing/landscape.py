"""Landscape: the recorded answers of many layer sets, in one file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from optlayers.errors import EvaluationError, InputError
from optlayers.evaluation.base import Evaluator
from optlayers.evaluation.questions import QuestionOrder, Subject
from optlayers.layerset import LayerSet
from optlayers.trials.statistics import StratifiedScore


@dataclass(frozen=True)
class Landscape:
    """Answers of layer sets to the search questions of a study, in the study's order.

    answers: bool [sets, n_full]. index: the row of each layer set.
    """

    n_layers: int
    order: QuestionOrder
    index: Mapping[LayerSet, int]
    answers: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        n_layers: int,
        order: QuestionOrder,
        sets: Sequence[LayerSet],
        answers: NDArray[np.bool_],
    ) -> Landscape:
        """From rows in the order of `sets`."""
        return cls(n_layers, order, {layers: row for row, layers in enumerate(sets)}, answers)

    @classmethod
    def record(cls, evaluator: Evaluator, sets: Sequence[LayerSet]) -> Landscape:
        """Evaluate the sets on all search questions; raises the `EvaluationError` of any set."""
        rows = []
        for found in evaluator.evaluate(sets, 0, evaluator.order.n_full):
            if isinstance(found, EvaluationError):
                raise found
            rows.append(found)
        return cls.of(evaluator.n_layers, evaluator.order, sets, np.stack(rows))

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
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(f"landscape {path}: {error}; record it again") from None
        return cls.of(n_layers, order, sets, answers.astype(np.bool_))

    def save(self, path: Path) -> None:
        """Write a compressed .npz of plain arrays; answers are packed, 8 to a byte."""
        order = self.order
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
            answers=np.packbits(self.answers[list(self.index.values())], axis=1),
        )

    def scores(self) -> dict[LayerSet, float]:
        """The full score of every layer set."""
        scorer = StratifiedScore(strata=self.order.subject, weights=self.order.weights)
        return {layers: scorer.score(self.answers[row]) for layers, row in self.index.items()}
