"""Baselines: how other searches fared on the same landscape, read from a file.

    {"searches": {"greedy addition": {"cost": [1, 2, 4], "score": [0.31, 0.40, 0.52]}}}

cost: full evaluations so far (of one layer set on all questions, without shared prefixes); score:
the best score on all questions by then, 0 to 1.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from optlayers.errors import InputError


class Baseline(BaseModel):
    """The best score of one search against its cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    cost: list[float] = Field(min_length=1)
    score: list[float] = Field(min_length=1)

    @model_validator(mode="after")
    def _as_many(self) -> Baseline:
        if len(self.cost) != len(self.score):
            raise ValueError(f"{len(self.cost)} costs and {len(self.score)} scores")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    study: str = ""
    searches: dict[str, Baseline]


def read_baselines(path: Path) -> list[Baseline]:
    """The searches of a file; raises `InputError` where it is missing or another."""
    try:
        found = _File.model_validate(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        what = str(error).splitlines()[0]
        raise InputError(
            f"--baselines {path}: {what}; "
            "name a file such as benchmarks/search/demo_baselines.py writes"
        ) from None
    return [line.model_copy(update={"name": name}) for name, line in found.searches.items()]
