"""Uploading a checkpoint to the Hugging Face hub."""

from __future__ import annotations

import shlex
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from optlayers.errors import ExportError, InputError

# What an earlier upload to the same repository may have left: transformers would load it.
STALE = ["*.safetensors", "*.safetensors.index.json"]


def check_push(repo: str) -> str:
    """Whether an upload to a repository can be tried, before anything is written; the repository.

    A name without an owner gets the token's. Raises `InputError` for a name that is none and for a
    missing or refused token, `ExportError` where the hub cannot be reached.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise InputError(f"--push {repo}: no name of a repository; write OWNER/NAME") from None
    if not get_token():
        raise InputError(
            f"--push {repo}: there is no token; set HF_TOKEN to one that may write, or run "
            "`hf auth login`"
        )
    try:
        me = HfApi().whoami()
    except (HfHubHTTPError, LocalTokenNotFoundError) as error:
        raise _refused(repo, error) from None
    except (OfflineModeIsEnabled, OSError, RuntimeError) as error:
        raise _unreachable(repo, error) from None
    except Exception as error:
        # Transport errors belong to whichever HTTP library the hub client brings.
        raise _unreachable(repo, error) from None
    return repo if "/" in repo else f"{me['name']}/{repo}"


def push(folder: Path, repo: str, private: bool = False) -> str:
    """Upload a checkpoint folder, and make the repository where there is none; its address.

    Weights of an earlier upload that are not among these go. The folder stays where an upload
    fails, and `hf upload` goes on with what the hub has of it. Raises `InputError` where the hub
    refuses, `ExportError` where it cannot be reached.
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
        # The client wraps some of the hub's answers in errors of its own.
        status = _status(error)
        failed = _refused if status and status < 500 else _unreachable
        raise failed(repo, error, folder) from None
    return str(url)


def _refused(repo: str, error: BaseException, written: Path | None = None) -> InputError:
    status = _status(error)
    why = {401: "the token is not valid", 403: "the token may not write there"}.get(
        status, f"the hub answered {status or type(error).__name__}"
    )
    mend = "set HF_TOKEN to a token that may write to it, or mend the name"
    return InputError(f"--push {repo}: {why}; {mend}{_then(repo, written)}")


def _unreachable(repo: str, error: BaseException, written: Path | None = None) -> ExportError:
    status = _status(error)
    why = f"the hub answered {status}" if status else "the hub cannot be reached"
    mend = "wait a little" if status else "check the network"
    again = _then(repo, written) or " and run it again"
    return ExportError(f"--push {repo}: {why} ({type(error).__name__}); {mend}{again}")


def _status(error: BaseException | None) -> int:
    """The hub's answer that an error comes from; 0: it did not answer."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        error = error.__cause__
    return 0


def _then(repo: str, written: Path | None) -> str:
    """How to upload what is written already; a second export would refuse its folder."""
    if written is None:
        return ""
    return f", then upload what is written with `hf upload {repo} {shlex.quote(str(written))}`"
