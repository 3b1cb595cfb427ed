"""Finding a model: a folder as it is, or a hub id, of which only the needed files are fetched.

A model on the hub is fetched into the Hugging Face cache, and goes on where it broke off. Its small
files come first; its index then says which weight files hold the tensors that are needed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from optlayers.checkpoints.reader import INDEX, SINGLE, Checkpoint
from optlayers.errors import ModelError, OptlayersError
from optlayers.layerset import LayerSet

SMALL = [
    "*.json",
    "tokenizer*",
    "*.model",
    "*.jinja",
    "vocab.*",
    "merges.txt",
    "README.md",
    "LICENSE*",
    "LICENCE*",
    "USE_POLICY*",
    "NOTICE*",
]
# Repositories keep weights of other formats in folders below.
ELSEWHERE = ["*/*"]
SPARE_BYTES = 500_000_000
# Lies in a folder of `store` that was fetched whole.
WHOLE = ".optlayers-complete"

Needed = Callable[[str], bool]


def everything(tensor: str) -> bool:
    """Every tensor is needed: the base, which gives the ends too."""
    return True


def nothing(tensor: str) -> bool:
    """No tensor is needed: a tokenizer."""
    return False


def decoder_layers(layers: LayerSet | None = None) -> Needed:
    """The tensors that a donor gives: those of its layers (None: of all), never of its ends."""

    def needed(tensor: str) -> bool:
        found = re.search(r"(?:^|\.)layers\.(\d+)\.", tensor)
        return found is not None and (layers is None or int(found.group(1)) in layers)

    return needed


def local_folder(where: str) -> Path | None:
    """The folder that a model's name means, or None for a hub id.

    Raises `ModelError` for what looks like a path and is no folder.
    """
    path = Path(where)
    if path.is_dir():
        return path
    if path.is_absolute() or where.startswith(".") or where.count("/") > 1:
        raise ModelError(f"model {where}: there is no such folder; mend the path in the study file")
    return None


def store() -> Path:
    """The folder of what was fetched from elsewhere than the Hugging Face hub."""
    home = os.environ.get("OPTLAYERS_MODELS")
    return Path(home) if home else Path.home() / ".cache" / "optlayers" / "models"


def fetched_folder(where: str) -> Path | None:
    """The folder of a model that was fetched into `store` whole, or None."""
    folder = store() / where.replace("/", "--")
    return folder if (folder / WHOLE).is_file() else None


def model_folder(where: str, revision: str | None = None, needed: Needed = everything) -> Path:
    """The folder of a model: a folder itself, or a hub id, fetched where it is not yet here.

    needed: which tensors will be read, by name; files without any are left out. Raises
    `ModelError` in one line for a missing folder, an unknown or gated repository, a missing
    network, and a disk that is too small.
    """
    folder = local_folder(where) or fetched_folder(where)
    if folder is not None:
        return folder
    with told(where, revision):
        found = Path(_snapshot(where, revision, SMALL))
        files = weight_files(found, needed)
        return Path(_snapshot(where, revision, [*SMALL, *files])) if files else found


def known_folder(where: str, revision: str | None = None) -> Path | None:
    """The folder of a model as far as it is on this machine, or None; asks no network."""
    folder = local_folder(where) or fetched_folder(where)
    if folder is not None:
        return folder
    try:
        return Path(snapshot_download(where, revision=revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None


def weight_files(folder: Path, needed: Needed) -> list[str]:
    """The weight files of a model that hold needed tensors, by its index where it has one."""
    if needed is nothing:
        return []
    index = folder / INDEX
    if not index.is_file():
        return [SINGLE]
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted({str(file) for tensor, file in places.items() if needed(tensor)})
    except (ValueError, KeyError, TypeError, AttributeError):
        # The reader says what is wrong with it.
        return [SINGLE]


def _snapshot(where: str, revision: str | None, files: list[str]) -> str:
    """Fetch files of a repository, once it is known that the disk holds them."""
    how: dict[str, Any] = {
        "revision": revision,
        "allow_patterns": files,
        "ignore_patterns": ELSEWHERE,
    }
    if not constants.HF_HUB_OFFLINE:
        try:
            plan = snapshot_download(where, dry_run=True, **how)
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
            # Asked again below, where what is here already serves without a network.
            plan = []
        check_space(where, sum(f.file_size or 0 for f in plan if f.will_download), cache_folder())
    return str(snapshot_download(where, **how))


def cache_folder() -> Path:
    """Where the Hugging Face client keeps what it fetches."""
    return Path(constants.HF_HUB_CACHE)


def free_bytes(folder: Path) -> int:
    """What is free on the disk where a folder is, or will be."""
    return shutil.disk_usage(existing(folder)).free


def existing(folder: Path) -> Path:
    """A folder, or the next one above that is there."""
    while not folder.exists():
        folder = folder.parent
    return folder


def check_space(where: str, need: int, folder: Path, setting: str = "HF_HOME") -> None:
    """Raise `ModelError` where a disk has no room for that many bytes more.

    setting: the environment variable that names another folder.
    """
    free = free_bytes(folder)
    if need and free < need + SPARE_BYTES:
        raise ModelError(
            f"model {where}: {need / 1e9:.1f} GB are to be fetched and {free / 1e9:.1f} GB are "
            f"free; free some space, or name a folder on another disk with {setting}"
        )


@contextlib.contextmanager
def told(where: str, revision: str | None) -> Iterator[None]:
    """Turn what a download can meet into a `ModelError` of one line."""
    try:
        yield
    except OptlayersError:
        raise
    except GatedRepoError:
        mend = "use a token of an account that has it" if get_token() else "set HF_TOKEN"
        raise ModelError(
            f"model {where}: the repository is gated; ask for access on its page, then {mend} or "
            "run `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise ModelError(f"model {where}: it has no revision {revision!r}; mend it") from None
    except RepositoryNotFoundError:
        token = "the token cannot see" if get_token() else "needs a token"
        raise ModelError(
            f"model {where}: no such repository, or a private one that {token}; mend the name, "
            "or set HF_TOKEN"
        ) from None
    except HFValidationError:
        raise ModelError(
            f"model {where}: neither a folder nor a hub id such as org/name; mend it"
        ) from None
    except LocalEntryNotFoundError:
        raise ModelError(
            f"model {where}: not in the local cache, and the hub cannot be reached; check the "
            "network, or name a folder that holds the model"
        ) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ModelError(
                f"model {where}: the disk is full; free some space and run it again, and it goes "
                "on where it stopped"
            ) from None
        why = " ".join(str(error).split())[:200]
        raise ModelError(f"model {where}: could not be fetched: {why}") from None
    except Exception as error:
        # The hub clients raise many transport errors of several libraries; all mean one thing.
        raise ModelError(
            f"model {where}: could not be fetched ({type(error).__name__}); check the network and "
            "run it again, or name a folder that holds the model"
        ) from None


def open_model(where: str, revision: str | None = None, needed: Needed = everything) -> Checkpoint:
    """The checkpoint of a folder or hub id; raises `ModelError`."""
    return Checkpoint(where, model_folder(where, revision, needed), needed)
