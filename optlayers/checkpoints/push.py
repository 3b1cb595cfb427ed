"""Uploading a checkpoint to the Hugging Face hub."""

from __future__ import annotations

import shlex
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from optlayers.errors import ExportError, InputError, OptlayersError

# Left by an earlier upload to the same repository, these would be loaded by transformers.
STALE = ["*.safetensors", "*.safetensors.index.json"]


def check_push(repo: str) -> str:
    """Check that an upload to a repository can be tried; returns its name with its owner.

    A name without an owner gets the token's. Raises `InputError` for an invalid name and for a
    missing or refused token, `ExportError` where the hub cannot be reached.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise InputError(f"--push {repo}: not a repository name; write OWNER/NAME") from None
    if not get_token():
        raise InputError(
            f"--push {repo}: there is no token; set HF_TOKEN to one that may write, or run "
            "`hf auth login`"
        )
    try:
        me = HfApi().whoami()
    except Exception as error:
        raise _failure(repo, error) from None
    return repo if "/" in repo else f"{me['name']}/{repo}"


def push(folder: Path, repo: str, private: bool = False) -> str:
    """Upload a checkpoint folder, creating the repository if needed; returns its address.

    Weights of an earlier upload are deleted there. After a failure the folder stays, and
    `hf upload` continues the upload. Raises as `check_push`.
    """
    api = HfApi()
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message=f"Upload {folder.name} with optlayers",
            delete_patterns=STALE,
        )
    except Exception as error:
        raise _failure(repo, error, folder) from None
    return str(url)


def _failure(repo: str, error: Exception, written: Path | None = None) -> OptlayersError:
    """One line for an error of the hub, or of whichever HTTP library its client uses.

    written: the folder that `hf upload` can upload, since a second export would refuse it.
    """
    status = _status(error)
    then = ""
    if written is not None:
        then = f", then upload what is written with `hf upload {repo} {shlex.quote(str(written))}`"
    if status and status < 500:
        why = {401: "the token is not valid", 403: "the token may not write there"}.get(
            status, f"the hub answered {status}"
        )
        return InputError(
            f"--push {repo}: {why}; set HF_TOKEN to a token that may write to it, or correct the "
            f"name{then}"
        )
    why = f"the hub answered {status}" if status else "the hub cannot be reached"
    fix = "wait a little" if status else "check the network"
    then = then or " and run it again"
    return ExportError(f"--push {repo}: {why} ({type(error).__name__}); {fix}{then}")


def _status(error: BaseException | None) -> int:
    """The HTTP status of the hub's answer behind an error; 0: it did not answer."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        error = error.__cause__
    return 0
