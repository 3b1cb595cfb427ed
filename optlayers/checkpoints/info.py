"""`checkpoint_info.json`: what an exported checkpoint is made of, for machines."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from optlayers import __version__
from optlayers.checkpoints.reader import Checkpoint
from optlayers.layerset import LayerSet
from optlayers.study import StudyDefinition

PACKAGES = ("torch", "transformers", "safetensors", "lm_eval", "optuna")


def checkpoint_info(
    definition: StudyDefinition,
    base: Checkpoint,
    donor: Checkpoint,
    layers: LayerSet,
    score: dict[str, Any] | None,
) -> dict[str, Any]:
    """Layer set, score with interval (None: not evaluated), study, models with SHA-256, versions.

    Reads the weight files whole, for their hashes.
    """
    return {
        "layers": list(layers.indices),
        "n_layers": len(layers),
        "score": score,
        "study": {
            "name": definition.name,
            "tasks": [task.model_dump() for task in definition.tasks],
            "fingerprint": definition.fingerprint(),
        },
        "base": _model(definition.base.model, definition.base.revision, base),
        "donor": _model(definition.donor.model, definition.donor.revision, donor),
        "versions": {
            "optlayers": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
    }


def _model(name: str, revision: str | None, checkpoint: Checkpoint) -> dict[str, Any]:
    return {"model": name, "revision": revision, "sha256": checkpoint.sha256}
