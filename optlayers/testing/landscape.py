"""Landscape: the recorded answers of many layer sets, and an evaluator that replays them.

A landscape of every layer set is the truth that searches are measured against; replayed, it
stands in for the models in tests and benchmarks of everything around them.
"""

from __future__ import annotations

import time
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
    """Answers of layer sets on the search questions of a study, in the study's order.

    answers: bool [sets, n_full], one row a layer set, as `index` says.
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
    def load(cls, path: Path) -> Landscape:
        """Read what `save` wrote; raises `InputError` where the file is missing or another."""
        try:
            with np.load(path, allow_pickle=False) as data:
                subjects = tuple(
                    Subject(str(name), int(size), float(weight))
                    for name, size, weight in zip(
                        data["subjects"], data["sizes"], data["weights"], strict=True
                    )
                )
                none = np.zeros(0, dtype=np.int64)
                order = QuestionOrder(
                    subjects=subjects,
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
            raise InputError(f"landscape {path}: {error}; make it anew with its script") from None
        return cls.of(n_layers, order, sets, answers.astype(np.bool_))

    def save(self, path: Path) -> None:
        """Write as a compressed .npz of plain arrays; answers are packed, 8 to a byte."""
        sets = sorted(self.index, key=lambda layers: self.index[layers])
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
            masks=np.array([sum(1 << i for i in layers) for layers in sets], dtype=np.uint64),
            answers=np.packbits(self.answers, axis=1),
        )

    def scores(self) -> dict[LayerSet, float]:
        """The full score of every layer set."""
        scorer = StratifiedScore(strata=self.order.subject, weights=self.order.weights)
        return {layers: scorer.score(self.answers[row]) for layers, row in self.index.items()}


class ReplayEvaluator(Evaluator):
    """An `Evaluator` that looks answers up; `seconds` is slept for each question of a set."""

    def __init__(self, landscape: Landscape, seconds: float = 0.0) -> None:
        self.landscape = landscape
        self.n_layers = landscape.n_layers
        self.order = landscape.order
        self.seconds = seconds

    def evaluate(
        self, layer_sets: Sequence[LayerSet], start: int, stop: int
    ) -> list[NDArray[np.bool_] | EvaluationError]:
        """The recorded answers [stop - start] of each set; an error where none are."""
        if self.seconds:
            time.sleep(self.seconds * len(layer_sets) * (stop - start))
        index, answers = self.landscape.index, self.landscape.answers
        return [
            answers[index[layers], start:stop].copy()
            if layers in index
            else EvaluationError(f"layer set {layers or 'none'} is not in the landscape")
            for layers in layer_sets
        ]
