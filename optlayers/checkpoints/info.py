"""`checkpoint_info.json`: what an exported checkpoint is made of, for programs."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from optlayers import __version__
from optlayers.checkpoints.files import INFO
from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import Checkpoint
from optlayers.checkpoints.tokenizer import tokenizer_owner
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

    dtype: what the weights were converted to (None: not converted). files: the SHA-256 of what was
    written, by name. With several donors, `donors` replaces `donor`, and layers are texts such as
    7@b. Hashes the weight files of the sources.
    """
    donors = [
        _model(definition, spec, donor)
        for spec, donor in zip(definition.donor_specs, parents.donors, strict=True)
    ]
    named = [
        {"name": name, "donor_map": None if places is None else list(places), **donor}
        for name, places, donor in zip(
            definition.donor_names, definition.graft.maps, donors, strict=True
        )
    ]
    return {
        "layers": definition.space().labels(layers),
        "n_layers": len(layers),
        "depth": parents.n_layers,
        "swap": definition.swap,
        "donor_map": definition.donor_map,
        "dtype": dtype,
        "tokenizer": tokenizer_owner(definition),
        "score": score,
        "study": {
            "name": definition.name,
            "tasks": [task.model_dump() for task in definition.tasks],
            "questions": definition.questions.model_dump(),
            "fingerprint": definition.fingerprint(),
        },
        "base": _model(definition, definition.base, parents.base),
        **({"donors": named} if len(donors) > 1 else {"donor": donors[0]}),
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
        # A whole path would reveal more about this machine than about the model.
        "model": spec.model if on_hub else Path(where).name,
        "on_hub": on_hub,
        "revision": spec.revision,
        "model_type": checkpoint.config.model_type,
        "licence": licence_of(checkpoint.folder),
        "sha256": checkpoint.sha256,
    }


def licence_of(folder: Path) -> str | None:
    """The licence that the model card in a folder names, or None."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
        data = yaml.safe_load(text.split("---", 2)[1]) if text.startswith("---") else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    if not isinstance(data, dict):
        return None
    named = data.get("license")
    if named in (None, "other"):
        named = data.get("license_name") or named
    return str(named) if named else None


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
        raise ModelError(f"{path}: does not name a study; export it again")
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
