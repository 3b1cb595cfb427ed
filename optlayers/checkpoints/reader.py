"""Checkpoint: a model folder, read one tensor at a time.

Safetensors only: no pickle is ever opened. Tensors are memory-mapped, so that processes of one
machine share one copy (`inference/converted.py` does the same for another dtype).
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig

from optlayers.checkpoints.files import hash_files
from optlayers.checkpoints.tensorfile import TensorEntry, read_header
from optlayers.errors import ModelError
from optlayers.models.families import config_from_dict, family_of

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class ModelConfig:
    """The `config.json` of a model folder.

    name: what the user calls the model. Raises `ModelError` for a file that is missing or broken,
    and for a model without an adapter.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.config_dict = self._read_json("config.json")
        try:
            self.config: PreTrainedConfig = config_from_dict(self.config_dict)
            family_of(self.config)
        except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
            # Some messages of transformers have several lines.
            why = " ".join(str(error).split())
            raise ModelError(f"model {name}: config.json: {why}") from None

    def _read_json(self, file: str) -> dict[str, Any]:
        try:
            data = json.loads((self.folder / file).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ModelError(
                f"model {self.name}: {file} is missing from {self.folder}; name a Hugging Face "
                "model folder or a hub id"
            ) from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ModelError(
                f"model {self.name}: {file} cannot be read ({error}); fetch it again"
            ) from None
        if not isinstance(data, dict):
            raise ModelError(f"model {self.name}: {file} holds no object; fetch it again")
        return data

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return int(self.config.num_hidden_layers)


class Checkpoint(ModelConfig):
    """A model on disk: its config, and its tensors by name.

    needed: whether a tensor of that name will be read (default: all); a file that holds none of
    those may be missing. Also raises `ModelError` for a folder without safetensors.
    """

    def __init__(
        self, name: str, folder: Path, needed: Callable[[str], bool] = lambda tensor: True
    ) -> None:
        super().__init__(name, folder)
        self._needed = needed
        self._files = self._find_tensors()
        self._handles: dict[str, Any] = {}
        self._headers: dict[str, dict[str, TensorEntry]] = {}

    def _find_tensors(self) -> dict[str, str]:
        """The file of each tensor."""
        if (self.folder / INDEX).is_file():
            index = self._read_json(INDEX).get("weight_map")
            if not isinstance(index, dict) or not all(isinstance(v, str) for v in index.values()):
                raise ModelError(
                    f"model {self.name}: {INDEX} has no weight_map of tensors to files; "
                    "fetch it again"
                )
            index = {name: file for name, file in index.items() if self._needed(name)}
            for file in sorted(set(index.values())):
                if not (self.folder / file).is_file():
                    raise ModelError(
                        f"model {self.name}: {file} is named in {INDEX} and missing; fetch it again"
                    )
            return index
        if not (self.folder / SINGLE).is_file():
            pickles = sorted(p.name for p in self.folder.glob("*.bin"))
            why = f" ({pickles[0]} is a pickle, which is never read)" if pickles else ""
            raise ModelError(
                f"model {self.name}: no {SINGLE} in {self.folder}{why}; "
                "use a checkpoint in safetensors"
            )
        return dict.fromkeys(self._open(SINGLE).keys(), SINGLE)

    def _open(self, file: str) -> Any:
        path = self.folder / file
        try:
            return safe_open(path, framework="pt", device="cpu")
        except (SafetensorError, OSError) as error:
            if path.exists() and not os.access(path, os.R_OK):
                # safetensors reports a missing file.
                raise ModelError(
                    f"model {self.name}: no permission to read {path}; change its permissions"
                ) from None
            raise ModelError(
                f"model {self.name}: {file} is not a whole safetensors file ({error}); "
                "fetch it again"
            ) from None

    def reading_from(self, file: Path, names: Iterable[str]) -> Checkpoint:
        """The same model with some of its tensors in another file, under the same names."""
        other = copy.copy(self)
        other._files = self._files | dict.fromkeys(names, str(file.absolute()))
        other._handles, other._headers = {}, {}
        return other

    def has(self, tensor: str) -> bool:
        """Whether the checkpoint holds a tensor of that name."""
        return tensor in self._files

    def names(self) -> list[str]:
        """All tensor names, sorted."""
        return sorted(self._files)

    def names_below(self, prefix: str, modules: set[str] | None = None) -> list[str]:
        """The names of the tensors of one module, sorted and without the prefix.

        modules: of these children only.
        """
        start = prefix + "."
        names = sorted(name[len(start) :] for name in self._files if name.startswith(start))
        return [name for name in names if modules is None or name.split(".")[0] in modules]

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor by name, on the CPU and memory-mapped; raises `ModelError` if missing."""
        if name not in self._files:
            raise ModelError(
                f"model {self.name}: tensor {name} is missing from the weights; fetch them again"
            )
        file = self._files[name]
        if file not in self._handles:
            self._handles[file] = self._open(file)
        try:
            tensor: torch.Tensor = self._handles[file].get_tensor(name)
        except SafetensorError as error:
            raise ModelError(
                f"model {self.name}: tensor {name} cannot be read from {file} ({error}); "
                "fetch it again"
            ) from None
        return tensor

    def entry(self, name: str) -> TensorEntry:
        """The place of a tensor, from the header of its file; raises `ModelError` if missing."""
        file = self._files.get(name)
        if file is not None and file not in self._headers:
            try:
                self._headers[file] = read_header(self.folder / file)
            except ModelError as error:
                raise ModelError(f"model {self.name}: {error}") from None
        if file is None or name not in self._headers[file]:
            where = "the weights" if file is None else f"{file}, where {INDEX} has it"
            raise ModelError(
                f"model {self.name}: tensor {name} is missing from {where}; fetch it again"
            )
        return self._headers[file][name]

    @cached_property
    def sha256(self) -> dict[str, str]:
        """SHA-256 of every weight file, by file name.

        Reads the files whole, except those that the Hugging Face cache has named by their SHA-256.
        """
        paths = {file: (self.folder / file).resolve() for file in sorted(set(self._files.values()))}
        named = {path: path.name for path in paths.values() if _is_blob(path)}
        hashes = hash_files(path for path in paths.values() if path not in named)
        return {file: named.get(path) or hashes[path] for file, path in paths.items()}


def _is_blob(path: Path) -> bool:
    """Whether a file of the Hugging Face cache is named by its SHA-256."""
    return path.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", path.name) is not None
