"""Uploading a checkpoint to the Hugging Face hub."""

from __future__ import annotations

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

    An upload that breaks off goes on where it stopped when it is run again. Raises `InputError`
    where the hub refuses, `ExportError` where it cannot be reached.
    """
    api = HfApi()
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message=f"Upload {folder.name} with optlayers"
        )
    except HfHubHTTPError as error:
        raise _refused(repo, error) from None
    except Exception as error:
        raise _unreachable(repo, error) from None
    return str(url)


def _refused(repo: str, error: Exception) -> InputError:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    why = {401: "the token is not valid", 403: "the token may not write there"}.get(
        status or 0, f"the hub answered {status or type(error).__name__}"
    )
    return InputError(
        f"--push {repo}: {why}; set HF_TOKEN to a token that may write to it, or mend the name"
    )


def _unreachable(repo: str, error: Exception) -> ExportError:
    return ExportError(
        f"--push {repo}: the hub cannot be reached ({type(error).__name__}); check the network "
        "and run it again, or upload the folder with `hf upload`"
    )
