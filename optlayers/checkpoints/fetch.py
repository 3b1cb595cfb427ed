"""Finding a model: a folder as it is, or a hub id through the Hugging Face cache."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from optlayers.checkpoints.reader import Checkpoint
from optlayers.errors import ModelError

PATTERNS = ["*.json", "*.safetensors", "tokenizer*", "*.model", "*.jinja"]


def model_folder(where: str, revision: str | None = None) -> Path:
    """The folder of a model: a folder itself, or a hub id, fetched where it is not yet here.

    Raises `ModelError` in one line for a missing folder, an unknown or gated repository, and
    for a missing network.
    """
    path = Path(where)
    if path.is_dir():
        return path
    if path.is_absolute() or where.startswith(".") or where.count("/") > 1:
        raise ModelError(f"model {where}: there is no such folder; mend the path in the study file")
    try:
        return Path(snapshot_download(where, revision=revision, allow_patterns=PATTERNS))
    except GatedRepoError:
        raise ModelError(
            f"model {where}: the repository is gated; ask for access on its page, then set "
            "HF_TOKEN or run `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise ModelError(f"model {where}: it has no revision {revision!r}; mend it") from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"model {where}: no such repository, or a private one; mend the name, or set HF_TOKEN"
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
        raise ModelError(f"model {where}: could not be fetched: {error}") from None
    except Exception as error:
        # The hub client raises many transport errors of several libraries; all mean one thing.
        raise ModelError(
            f"model {where}: could not be fetched ({type(error).__name__}); check the network, "
            "or name a folder that holds the model"
        ) from None


def open_model(where: str, revision: str | None = None) -> Checkpoint:
    """The checkpoint of a folder or hub id; raises `ModelError`."""
    return Checkpoint(where, model_folder(where, revision))
