"""`checkpoint_info.json`: what an exported checkpoint is made of, for machines."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optlayers import __version__
from optlayers.checkpoints.licence import licence_of
from optlayers.checkpoints.reader import Checkpoint
from optlayers.layerset import LayerSet
from optlayers.study import ModelSpec, StudyDefinition

FILE = "checkpoint_info.json"
PACKAGES = ("torch", "transformers", "safetensors", "lm_eval", "optuna")


def checkpoint_info(
    definition: StudyDefinition,
    base: Checkpoint,
    donor: Checkpoint,
    layers: LayerSet,
    score: dict[str, Any] | None,
    dtype: str | None = None,
    files: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Layer set, score with interval (None: not evaluated), study, models with SHA-256, versions.

    dtype: what the weights were converted to (None: not at all). files: the SHA-256 of what was
    written, by name. Reads the weight files of the sources whole, for their hashes.
    """
    return {
        "layers": list(layers.indices),
        "n_layers": len(layers),
        "depth": base.n_layers,
        "swap": definition.swap,
        "donor_map": definition.donor_map,
        "dtype": dtype,
        "score": score,
        "study": {
            "name": definition.name,
            "tasks": [task.model_dump() for task in definition.tasks],
            "questions": definition.questions.model_dump(),
            "fingerprint": definition.fingerprint(),
        },
        "base": _model(definition, definition.base, base),
        "donor": _model(definition, definition.donor, donor),
        "files": dict(files or {}),
        "versions": {
            "optlayers": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _model(definition: StudyDefinition, spec: ModelSpec, checkpoint: Checkpoint) -> dict[str, Any]:
    where = definition.resolve(spec.model)
    on_hub = not Path(where).is_dir()
    return {
        # A path would say more of the machine that this was made on than of the model.
        "model": spec.model if on_hub else Path(where).name,
        "on_hub": on_hub,
        "revision": spec.revision,
        "model_type": checkpoint.config.model_type,
        "licence": licence_of(checkpoint.folder),
        "sha256": checkpoint.sha256,
    }
