"""What a worker stores about itself with its study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from optlayers.trials import keys


@dataclass(frozen=True)
class WorkerState:
    """A worker as it last reported itself.

    questions: answers that it computed. passes: layer passes that it ran (one layer on one
    question). saved_passes: layer passes that shared prefixes saved. seconds: time spent
    evaluating. begun, seen: start and last report, in seconds since 1970 by its own clock.
    """

    name: str
    device: str = ""
    hardware: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    state: str = ""
    questions: int = 0
    passes: int = 0
    saved_passes: int = 0
    seconds: float = 0.0
    begun: float = 0.0
    seen: float = 0.0

    @property
    def host(self) -> str:
        """The name of its machine."""
        return self.name.split("/")[0].split(":")[0]

    @property
    def pid(self) -> str:
        """Its process number."""
        parts = self.name.rsplit(":", 2)
        return parts[1] if len(parts) == 3 else ""


def read_workers(attrs: Mapping[str, Any]) -> list[WorkerState]:
    """The workers in a study's user attributes, in the order in which they started."""
    names = {f.name for f in fields(WorkerState)}
    found = [
        WorkerState(**{k: v for k, v in value.items() if k in names})
        for key, value in attrs.items()
        if key.startswith(keys.WORKER_STATE) and isinstance(value, dict)
    ]
    return sorted(found, key=lambda worker: (worker.begun, worker.name))
