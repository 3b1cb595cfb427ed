"""An evaluator that replays a landscape, with delays and faults on demand.

A replay file (`optlayers search --replay FILE`) configures it:

    landscape: landscape.npz      # paths are relative to the file
    seconds: 0.0001               # time to spend on each question of each set
    log: asked                    # folder for one log a process: call, start, stop, layer set
    faults: {"3,7": raise}        # what these sets do: raise, hang, nan or exit
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from optlayers.errors import EvaluationError, InputError
from optlayers.evaluation.base import Evaluator, Judged
from optlayers.layerset import LayerSet
from optlayers.testing.landscape import Landscape
from optlayers.trials.answers import Answers

Fault = Literal["raise", "hang", "nan", "exit"]


class ReplaySpec(BaseModel):
    """The fields of a replay file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    landscape: Path
    seconds: float = Field(0.0, ge=0.0)
    log: Path | None = None
    faults: dict[str, Fault] = Field(default_factory=dict)


class ReplayEvaluator(Evaluator):
    """Looks the answers up in a landscape.

    seconds: time to spend on each question of each set. log: a folder for the log of calls.
    faults: layer sets that raise, hang, give NaN or end the process.
    """

    def __init__(
        self,
        landscape: Landscape,
        seconds: float = 0.0,
        log: Path | None = None,
        faults: Mapping[LayerSet, Fault] | None = None,
    ) -> None:
        self.landscape, self.seconds, self.faults = landscape, seconds, faults or {}
        self.n_layers, self.order = landscape.n_layers, landscape.order
        self.log = None if log is None else log / f"{os.getpid()}.log"
        if log is not None:
            log.mkdir(parents=True, exist_ok=True)
        self._calls = 0

    @classmethod
    def load(cls, path: Path) -> ReplayEvaluator:
        """From a replay file; raises `InputError` where it is not valid."""
        try:
            spec = ReplaySpec.model_validate(yaml.safe_load(path.read_text("utf-8")))
        except (OSError, yaml.YAMLError, ValidationError) as error:
            first = str(error).splitlines()[0]
            raise InputError(
                f"replay file {path}: {first}; see optlayers/testing/replay.py"
            ) from None
        faults = {LayerSet.parse(text): fault for text, fault in spec.faults.items()}
        log = None if spec.log is None else path.parent / spec.log
        return cls(Landscape.load(path.parent / spec.landscape), spec.seconds, log, faults)

    def evaluate(
        self, layer_sets: Sequence[LayerSet], start: int, stop: int
    ) -> list[Answers | EvaluationError]:
        """The recorded answers [stop - start] of each set; an error where none are recorded."""
        for layers in layer_sets:
            match self.faults.get(layers):
                case "raise":
                    raise RuntimeError(f"the evaluation of {layers} broke down")
                case "hang":
                    while True:
                        time.sleep(60)
                case "exit":
                    os.abort()
        self._calls += 1
        if self.log is not None:
            # Written before the answers, so that the log holds a call that a kill interrupts.
            lines = "".join(f"{self._calls} {start} {stop} {layers}\n" for layers in layer_sets)
            with self.log.open("a", encoding="utf-8") as log:
                log.write(lines)
        time.sleep(self.seconds * len(layer_sets) * (stop - start))
        return [self._answers(layers, start, stop) for layers in layer_sets]

    def judge(
        self, layer_sets: Sequence[LayerSet], start: int, stop: int
    ) -> list[Judged | EvaluationError]:
        """`evaluate`, with log-probabilities for fast questions where they were recorded."""
        logs, found = self.landscape.logs, self.evaluate(layer_sets, start, stop)
        if logs is None or stop > self.order.n_fast:
            return [one if isinstance(one, EvaluationError) else Judged(one) for one in found]
        rows = [self.landscape.index.get(layers, -1) for layers in layer_sets]
        return [
            one if isinstance(one, EvaluationError) else Judged(one, logs[row, start:stop])
            for row, one in zip(rows, found, strict=True)
        ]

    def _answers(self, layers: LayerSet, start: int, stop: int) -> Answers | EvaluationError:
        if self.faults.get(layers) == "nan":
            return EvaluationError("NaN in the logits")
        row = self.landscape.index.get(layers)
        if row is None:
            return EvaluationError(f"layer set {layers or 'none'} is not in the landscape")
        return self.landscape.answers[row, start:stop].copy()
