"""Finding a model: a folder, or a hub id of which only the needed files are fetched.

Models of the hub go into the Hugging Face cache; an interrupted download continues. Small files
come first: the index among them says which weight files hold the needed tensors.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_token, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from optlayers.checkpoints.expected import Needed
from optlayers.checkpoints.files import free_bytes
from optlayers.checkpoints.reader import SINGLE, Checkpoint, ModelConfig, weight_files
from optlayers.errors import ModelError, OptlayersError
from optlayers.layerset import LayerSet

SMALL_FILES = [
    "*.json",
    "tokenizer*",
    "*.model",
    "*.jinja",
    "*.py",
    "*.tiktoken",
    "vocab.*",
    "merges.txt",
    "README.md",
    "LICENSE*",
    "LICENCE*",
    "USE_POLICY*",
    "NOTICE*",
]
# Repositories keep weights in other formats in subfolders: all but `additional_chat_templates`.
IGNORED = ["[!a]*/*", "a[!d]*/*", "ad[!d]*/*"]
SPARE_BYTES = 500_000_000
# Marks a folder of `models_folder` as complete.
COMPLETE = ".optlayers-complete"


def everything(tensor: str) -> bool:
    """All tensors are needed: of a base."""
    return True


def nothing(tensor: str) -> bool:
    """No tensor is needed: of a tokenizer."""
    return False


def decoder_layers(layers: LayerSet | None = None) -> Needed:
    """The tensors of these decoder layers are needed (None: of all layers): of a donor."""

    def needed(tensor: str) -> bool:
        found = re.search(r"(?:^|\.)layers\.(\d+)\.", tensor)
        return found is not None and (layers is None or int(found.group(1)) in layers)

    return needed


def local_folder(where: str) -> Path | None:
    """The folder that a model's name means, or None for a hub id.

    Raises `ModelError` for a path that is not a folder.
    """
    path = Path(where)
    if path.is_dir():
        return path
    if path.is_absolute() or where.startswith(".") or where.count("/") > 1:
        raise ModelError(f"model {where}: there is no such folder; correct the path")
    return None


def models_folder() -> Path:
    """The folder of models that were fetched from elsewhere than the Hugging Face hub."""
    home = os.environ.get("OPTLAYERS_MODELS")
    return Path(home) if home else Path.home() / ".cache" / "optlayers" / "models"


def _offline_folder(where: str) -> Path | None:
    """The folder of a model that needs no hub client: local, or complete in `models_folder`."""
    found = local_folder(where)
    if found is None and (models_folder() / where.replace("/", "--") / COMPLETE).is_file():
        found = models_folder() / where.replace("/", "--")
    return found


def known_folder(where: str, revision: str | None = None) -> Path | None:
    """The folder of a model as far as it is on this machine, or None; uses no network."""
    folder = _offline_folder(where)
    if folder is not None:
        return folder
    try:
        return Path(snapshot_download(where, revision=revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None


def model_folder(where: str, revision: str | None = None, needed: Needed = everything) -> Path:
    """The folder of a model, fetched from the hub where it is not on this machine.

    needed: which tensors will be read; files without any are not fetched. Raises `ModelError`.
    """
    folder = _offline_folder(where)
    if folder is not None:
        return folder
    with hub_errors(where, revision):
        found = Path(_snapshot(where, revision, SMALL_FILES))
        if needed is nothing:
            return found
        ModelConfig(where, found)  # refuses a model before its weights are fetched
        # Only where a repository has no whole file does its index count.
        found = Path(_snapshot(where, revision, [*SMALL_FILES, SINGLE]))
        files = weight_files(where, found, needed)
        return Path(_snapshot(where, revision, [*SMALL_FILES, *files]))


def open_model(where: str, revision: str | None = None, needed: Needed = everything) -> Checkpoint:
    """The checkpoint of a folder or hub id; see `model_folder`."""
    return Checkpoint(where, model_folder(where, revision, needed), needed)


def open_config(where: str, revision: str | None = None) -> ModelConfig:
    """The config of a folder or hub id, of which nothing else is fetched; raises `ModelError`."""
    folder = _offline_folder(where)
    if folder is None:
        with hub_errors(where, revision):
            try:
                file = hf_hub_download(where, "config.json", revision=revision)
            except LocalEntryNotFoundError:
                raise  # a subclass of the next one, raised where the hub cannot be reached
            except EntryNotFoundError:
                raise ModelError(
                    f"model {where}: it has no config.json; name a model of transformers"
                ) from None
        folder = Path(file).parent
    return ModelConfig(where, folder)


def _snapshot(where: str, revision: str | None, files: list[str]) -> str:
    """Fetch files of a repository, after checking that they fit on the disk."""
    how: dict[str, Any] = {
        "revision": revision,
        "allow_patterns": files,
        "ignore_patterns": IGNORED,
    }
    if not constants.HF_HUB_OFFLINE:
        try:
            plan = snapshot_download(where, dry_run=True, **how)
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
            plan = []  # the call below fails too, or finds everything in the cache
        check_space(where, sum(f.file_size or 0 for f in plan if f.will_download), cache_folder())
    return str(snapshot_download(where, **how))


def cache_folder() -> Path:
    """The cache of the Hugging Face client."""
    return Path(constants.HF_HUB_CACHE)


def check_space(where: str, need: int, folder: Path, setting: str = "HF_HOME") -> None:
    """Raise `ModelError` unless a disk has this many bytes free.

    setting: the environment variable that names another folder.
    """
    free = free_bytes(folder)
    if need and free < need + SPARE_BYTES:
        raise ModelError(
            f"model {where}: {need / 1e9:.1f} GB are to be fetched and {free / 1e9:.1f} GB are "
            f"free; free some space, or name a folder on another disk with {setting}"
        )


@contextlib.contextmanager
def hub_errors(where: str, revision: str | None) -> Iterator[None]:
    """Turn the errors of a download into a `ModelError` of one line."""
    try:
        yield
    except OptlayersError:
        raise
    except Exception as error:
        raise ModelError(f"model {where}: {_reason(error, revision)}") from None


def _reason(error: Exception, revision: str | None) -> str:
    token = get_token()
    match error:
        case GatedRepoError():
            fix = "use a token of an account that has it" if token else "set HF_TOKEN"
            return (
                f"the repository is gated; ask for access on its page, then {fix} or run "
                "`hf auth login`"
            )
        case RevisionNotFoundError():
            return f"it has no revision {revision!r}; correct it"
        case RepositoryNotFoundError():
            sees = "the token cannot see" if token else "needs a token"
            return (
                f"no such repository, or a private one that {sees}; correct the name, or set "
                "HF_TOKEN"
            )
        case HFValidationError():
            return "neither a folder nor a hub id such as org/name; correct it"
        case LocalEntryNotFoundError():
            return (
                "not in the local cache, and the hub cannot be reached; check the network, or "
                "name a folder that holds the model"
            )
        case OSError(errno=errno.ENOSPC):
            return "the disk is full; free some space and run it again, and the download continues"
        case OSError():
            return f"could not be fetched: {' '.join(str(error).split())[:200]}"
        case _:
            # Transport errors belong to whichever HTTP library the hub client uses.
            return (
                f"could not be fetched ({type(error).__name__}); check the network and run it "
                "again, or name a folder that holds the model"
            )
