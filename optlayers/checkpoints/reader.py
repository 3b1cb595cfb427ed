"""Checkpoint: a model folder, read one tensor at a time.

Safetensors only: no pickle is ever opened. Tensors are memory-mapped, so that processes of one
machine share one copy (`inference/converted.py` does the same for another dtype).
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig

from optlayers.checkpoints.expected import (
    OLD_BUFFERS,
    ExpectedTensors,
    Needed,
    check_sizes,
    refuse_unreadable,
)
from optlayers.checkpoints.files import hash_files
from optlayers.checkpoints.tensorfile import TensorEntry, check_overflow, read_header
from optlayers.errors import ModelError
from optlayers.models.families import config_from_dict
from optlayers.models.hybrid import HybridConfig

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER = "adapter_config.json"


class ModelConfig:
    """The `config.json` of a model folder, and the tensors that it asks for.

    name: what the user calls the model. Raises `ModelError` for a file that is missing or broken,
    for a model without an adapter, and for one that is quantized or an adapter of peft.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        if (folder / ADAPTER).is_file():
            raise ModelError(
                f"model {name}: {ADAPTER} makes it an adapter of another model; merge the two with "
                "peft's merge_and_unload, save the result, and name its folder"
            )
        self.config_dict = read_object(name, folder, "config.json")
        try:
            self.config: PreTrainedConfig = self._config_of(self.config_dict)
            self.expected = ExpectedTensors.of(self.config)
        except Exception as error:
            # transformers raises many kinds, some with messages of several lines.
            why = " ".join(str(error).split())
            if not isinstance(error, ValueError):
                why = f"{type(error).__name__}: {why}; correct it, or fetch it again"
            raise ModelError(f"model {name}: config.json: {why}") from None

    def _config_of(self, data: dict[str, Any]) -> PreTrainedConfig:
        refuse_unreadable(data)
        config = config_from_dict(data)
        check_sizes(config)
        return config

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return int(self.config.num_hidden_layers)


class Checkpoint(ModelConfig):
    """A model on disk: its config, and its tensors by the names that the model gives them.

    needed: whether a tensor of that name will be read (default: all); a file that holds none of
    those may be missing. others: the names of tensors that the model does not use, which are never
    read. Also raises `ModelError` where the needed tensors do not fit the config.
    """

    def __init__(self, name: str, folder: Path, needed: Needed = lambda tensor: True) -> None:
        super().__init__(name, folder)
        self._handles: dict[Path, Any] = {}
        self._places: dict[str, tuple[str, TensorEntry]] = {}
        self.others: list[str] = []
        for file in self._files(needed):
            for stored, entry in self._header(file).items():
                tensor = self.expected.place(stored)
                if tensor is None:
                    self.others.append(stored)
                # As in transformers, of two files the last counts.
                elif needed(tensor) and (stored == tensor or tensor not in self._places):
                    self._places[tensor] = stored, entry
        entries = {tensor: entry for tensor, (_, entry) in self._places.items()}
        if fault := self.expected.fault(entries, self.others, needed):
            raise ModelError(f"model {name}: {fault}")
        self._tie()

    @property
    def note(self) -> str | None:
        """Which tensors are left out, in one line; None if only those that older versions saved."""
        others = [name for name in self.others if not OLD_BUFFERS.search(name)]
        if not others:
            return None
        return (
            f"model {self.name}: the weights hold {len(others)} tensors that the model has no "
            f"place for, such as {min(others)}; they are left out, as transformers leaves them out"
        )

    def _files(self, needed: Needed) -> list[str]:
        files = weight_files(self.name, self.folder, needed)
        for file in files:
            if (self.folder / file).is_file():
                continue
            if file != SINGLE:
                raise ModelError(
                    f"model {self.name}: {file} is named in {INDEX} and missing; fetch it again"
                )
            pickles = sorted(p.name for p in self.folder.glob("*.bin"))
            why = f" ({pickles[0]} is a pickle, which is never read)" if pickles else ""
            raise ModelError(
                f"model {self.name}: no {SINGLE} in {self.folder}{why}; "
                "use a checkpoint in safetensors"
            )
        return files

    def _tie(self) -> None:
        """Keep one of embedding and head where transformers ties them."""
        head, embedding = self.expected.head, self.expected.embedding
        if not self.expected.tied or head not in self._places:
            return
        if embedding not in self._places:
            self._places[embedding] = self._places.pop(head)
        elif torch.equal(self.tensor(head), self.tensor(embedding)):
            del self._places[head]

    def _header(self, file: str) -> dict[str, TensorEntry]:
        path = self.folder / file
        try:
            return read_header(path)
        except ModelError as error:
            if not os.access(path, os.R_OK):
                raise ModelError(
                    f"model {self.name}: no permission to read {path}; change its permissions"
                ) from None
            raise ModelError(f"model {self.name}: {error}") from None

    def reading_from(self, file: Path, names: Iterable[str]) -> Checkpoint:
        """The same model with some of its tensors in another file, under the names of the model."""
        other, entries = copy.copy(self), read_header(file)
        other._places = self._places | {name: (name, entries[name]) for name in names}
        other._handles = {}
        return other

    def has(self, tensor: str) -> bool:
        """Whether the checkpoint holds a tensor of that name."""
        return tensor in self._places

    def names(self) -> list[str]:
        """The names of all needed tensors, sorted."""
        return sorted(self._places)

    def names_below(self, prefix: str, modules: set[str] | None = None) -> list[str]:
        """The names of the tensors of one module, sorted and without the prefix.

        modules: of these children only.
        """
        start = prefix + "."
        names = sorted(name[len(start) :] for name in self._places if name.startswith(start))
        return [name for name in names if modules is None or name.split(".")[0] in modules]

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """One tensor by name, on the CPU; memory-mapped unless it is converted.

        dtype: to convert to (None: as it is). Raises `ModelError` where it is missing or overflows.
        """
        path = self.entry(name).file
        try:
            if path not in self._handles:
                self._handles[path] = safe_open(path, framework="pt", device="cpu")
            tensor: torch.Tensor = self._handles[path].get_tensor(self._places[name][0])
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"model {self.name}: tensor {name} cannot be read from {path} ({error}); "
                "fetch it again"
            ) from None
        if dtype in (None, tensor.dtype):
            return tensor
        made = tensor.to(dtype)
        check_overflow(name, made, tensor.dtype)
        return made

    def entry(self, name: str) -> TensorEntry:
        """The place of a tensor in its file; raises `ModelError` if missing."""
        if name not in self._places:
            raise ModelError(
                f"model {self.name}: tensor {name} is missing from the weights; fetch them again"
            )
        return self._places[name][1]

    @cached_property
    def sha256(self) -> dict[str, str]:
        """SHA-256 of every weight file, by file name.

        Reads the files whole, except those that the Hugging Face cache has named by their SHA-256.
        """
        files = sorted({entry.file for _, entry in self._places.values()})
        paths = {str(file.relative_to(self.folder)): file.resolve() for file in files}
        named = {path: path.name for path in paths.values() if _is_blob(path)}
        hashes = hash_files(path for path in paths.values() if path not in named)
        return {file: named.get(path) or hashes[path] for file, path in paths.items()}


class ExportedCheckpoint(Checkpoint):
    """A hybrid that an export wrote; raises as `Checkpoint` where it would not load whole."""

    def _config_of(self, data: dict[str, Any]) -> PreTrainedConfig:
        if data.get("model_type") != HybridConfig.model_type:
            raise ValueError(f"model_type {data.get('model_type')!r} is no hybrid of optlayers")
        config = HybridConfig.from_dict(data)
        for parent in (config.base_config, config.donor_config, *(config.other_configs or [])):
            refuse_unreadable(parent)
        return config


def weight_files(name: str, folder: Path, needed: Needed) -> list[str]:
    """The files of a model that hold needed tensors, as transformers chooses and orders them.

    One whole file counts before an index of shards. Raises `ModelError` for a broken index.
    """
    if (folder / SINGLE).is_file() or not (folder / INDEX).is_file():
        return [SINGLE]
    index = read_object(name, folder, INDEX).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(v, str) for v in index.values()):
        raise ModelError(
            f"model {name}: {INDEX} has no weight_map of tensors to files; fetch it again"
        )
    return sorted({file for tensor, file in index.items() if needed(tensor)})


def read_object(name: str, folder: Path, file: str) -> dict[str, Any]:
    """The object in a JSON file of a model; raises `ModelError`."""
    try:
        data = json.loads((folder / file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"model {name}: {file} is missing from {folder}; name a Hugging Face model folder or "
            "a hub id"
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"model {name}: {file} cannot be read ({error}); fetch it again") from None
    if not isinstance(data, dict):
        raise ModelError(f"model {name}: {file} is not a JSON object; fetch it again")
    return data


def _is_blob(path: Path) -> bool:
    """Whether a file of the Hugging Face cache is named by its SHA-256."""
    return path.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", path.name) is not None
