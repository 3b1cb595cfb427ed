"""Replay: what stands in for models in tests and benchmarks of everything around them.

A replay file says which landscape answers, how long a question takes, where to log what was asked,
and which layer sets misbehave:

    landscape: landscape.npz
    seconds: 0.0001               # a question of a set
    log: asked                    # a folder, one file a process: call, from, to, layer set
    faults: {"3,7": raise}        # raise, hang, nan or exit
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from optlayers.errors import EvaluationError, InputError
from optlayers.layerset import LayerSet
from optlayers.testing.landscape import Landscape, ReplayEvaluator

Fault = Literal["raise", "hang", "nan", "exit"]


class ReplaySpec(BaseModel):
    """A replay file; paths are relative to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    landscape: Path
    seconds: float = Field(0.0, ge=0.0)
    log: Path | None = None
    faults: dict[str, Fault] = Field(default_factory=dict)


class Replay(ReplayEvaluator):
    """An evaluator that replays a landscape as a replay file says."""

    def __init__(self, landscape: Landscape, spec: ReplaySpec, folder: Path) -> None:
        super().__init__(landscape, spec.seconds)
        self.calls = 0
        self.faults = {LayerSet.parse(text): fault for text, fault in spec.faults.items()}
        self.log = None if spec.log is None else folder / spec.log / f"{os.getpid()}.log"
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)

    @classmethod
    def load(cls, path: Path) -> Replay:
        """From a replay file; raises `InputError` where it does not validate."""
        try:
            spec = ReplaySpec.model_validate(yaml.safe_load(path.read_text("utf-8")))
        except (OSError, yaml.YAMLError, ValidationError) as error:
            first = str(error).splitlines()[0]
            raise InputError(
                f"replay file {path}: {first}; see optlayers/testing/replay.py"
            ) from None
        return cls(Landscape.load(path.parent / spec.landscape), spec, path.parent)

    def evaluate(
        self, layer_sets: Sequence[LayerSet], start: int, stop: int
    ) -> list[NDArray[np.bool_] | EvaluationError]:
        """The recorded answers [stop - start] of each set, or what its fault brings."""
        for layers in layer_sets:
            match self.faults.get(layers):
                case "raise":
                    raise RuntimeError(f"the evaluation of {layers} broke down")
                case "hang":
                    while True:
                        time.sleep(60)
                case "exit":
                    os.abort()
        if self.log is not None:
            # Before they are answered, so that what a kill interrupts is in the log.
            self.calls += 1
            lines = "".join(f"{self.calls} {start} {stop} {layers}\n" for layers in layer_sets)
            with self.log.open("a", encoding="utf-8") as log:
                log.write(lines)
        answers = super().evaluate(layer_sets, start, stop)
        return [
            EvaluationError("NaN in the logits") if self.faults.get(layers) == "nan" else found
            for layers, found in zip(layer_sets, answers, strict=True)
        ]
