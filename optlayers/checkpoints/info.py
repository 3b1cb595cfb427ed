"""`checkpoint_info.json`: what an exported checkpoint is made of, for machines."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optlayers import __version__
from optlayers.checkpoints.hashes import INFO
from optlayers.checkpoints.licence import licence_of
from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import Checkpoint
from optlayers.config.fields import ModelSpec
from optlayers.config.study import StudyDefinition
from optlayers.errors import InputError, ModelError
from optlayers.layerset import LayerSet

PACKAGES = ("torch", "transformers", "safetensors", "lm_eval", "optuna")


def checkpoint_info(
    definition: StudyDefinition,
    parents: Parents,
    layers: LayerSet,
    score: dict[str, Any] | None,
    dtype: str | None = None,
    files: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Layer set, score with interval (None: not evaluated), study, models with SHA-256, versions.

    dtype: what the weights were converted to (None: not at all). files: the SHA-256 of what was
    written, by name. With several donors, `donors` stands in place of `donor`, and layers are
    texts such as 7@b. Reads the weight files of the sources whole, for
    their hashes.
    """
    specs, names = definition.donor_specs, definition.donor_names
    models = [_model(definition, *pair) for pair in zip(specs, parents.donors, strict=True)]
    maps = definition.graft.maps
    several = [
        {"name": name, "donor_map": None if known is None else list(known), **model}
        for name, known, model in zip(names, maps, models, strict=True)
    ]
    return {
        "layers": definition.space().labels(layers),
        "n_layers": len(layers),
        "depth": parents.n_layers,
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
        "base": _model(definition, definition.base, parents.base),
        **({"donors": several} if len(parents.donors) > 1 else {"donor": models[0]}),
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


def read_info(folder: Path) -> dict[str, Any]:
    """The `checkpoint_info.json` of an exported folder; raises `ModelError` for any other."""
    path = folder / INFO
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{folder}: it has no {INFO}; name a folder that `optlayers export` wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); export it again") from None
    if not isinstance(info, dict) or not _holds(info.get("study"), name=str, fingerprint=str):
        raise ModelError(f"{path}: names no study; export it again")
    score = info.get("score")
    if score is not None and not _holds(score, score=float, questions=int):
        raise ModelError(f"{path}: the recorded score cannot be read; export it again")
    return info


def _holds(data: Any, **kinds: type) -> bool:
    return isinstance(data, dict) and all(
        isinstance(data.get(key), kind) for key, kind in kinds.items()
    )


def check_definition(info: Mapping[str, Any], definition: StudyDefinition, folder: Path) -> None:
    """Raise `InputError` unless a checkpoint was exported from this definition."""
    study = info["study"]
    if study["fingerprint"] != definition.fingerprint():
        raise InputError(
            f"{folder}: made by study {study['name']!r} {study['fingerprint']}, and the definition "
            f"of {definition.name!r} is {definition.fingerprint()}; name its file with --study"
        )
