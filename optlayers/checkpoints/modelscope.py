"""Fetching from ModelScope (modelscope.cn), for machines that cannot reach Hugging Face.

A model goes into `models_folder` under its name on Hugging Face, so that study files need no
change. Needs the extra `modelscope`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from optlayers.checkpoints.expected import Needed
from optlayers.checkpoints.fetch import (
    COMPLETE,
    IGNORED,
    SMALL_FILES,
    check_space,
    hub_errors,
    local_folder,
    models_folder,
    nothing,
)
from optlayers.checkpoints.reader import SINGLE, ModelConfig, weight_files
from optlayers.errors import InputError, ModelError

# Models with another name on ModelScope.
NAMES = {
    "meta-llama/Llama-3.1-8B-Instruct": "LLM-Research/Meta-Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.2-3B-Instruct": "LLM-Research/Llama-3.2-3B-Instruct",
    "meta-llama/Llama-3.2-1B-Instruct": "LLM-Research/Llama-3.2-1B-Instruct",
}


def fetch_modelscope(where: str, revision: str | None, needed: Needed) -> Path:
    """Fetch the needed files of a model, or continue an interrupted fetch; returns the folder.

    Raises `InputError` where the client is not installed, `ModelError` where fetching fails.
    """
    folder = local_folder(where)
    if folder is not None:
        return folder
    try:
        from modelscope import snapshot_download
        from modelscope.hub.api import HubApi
    except ImportError:
        raise InputError(
            "--source modelscope: the client is not installed; install optlayers[modelscope]"
        ) from None
    folder = models_folder() / where.replace("/", "--")
    name = NAMES.get(where, where)

    def fetch(files: list[str]) -> None:
        snapshot_download(
            name,
            revision=revision,
            local_dir=str(folder),
            allow_patterns=files,
            ignore_patterns=IGNORED,
        )

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with hub_errors(where, revision):
            fetch(SMALL_FILES)
            if not (folder / "config.json").is_file():
                raise ModelError(f"model {where}: ModelScope has no {name}; use another source")
            if needed is not nothing:
                ModelConfig(where, folder)  # refuses a model before its weights are fetched
            chosen = {} if revision is None else {"revision": revision}
            sizes = {x["Path"]: x["Size"] or 0 for x in HubApi().get_model_files(name, **chosen)}
            files = [] if needed is nothing else [SINGLE]
            if files and SINGLE not in sizes:
                files = weight_files(where, folder, needed)
            check_space(where, missing_bytes(folder, files, sizes), folder, "OPTLAYERS_MODELS")
            if files:
                fetch(files)
        (folder / COMPLETE).touch()
    except OSError as error:
        raise ModelError(f"model {where}: {folder} cannot be written ({error})") from None
    return folder


def missing_bytes(folder: Path, files: Sequence[str], sizes: Mapping[str, int]) -> int:
    """Bytes of some files that are still missing in a folder; sizes: of the whole files."""
    here = {name: (folder / name).stat().st_size for name in files if (folder / name).is_file()}
    return sum(max(0, sizes.get(name, 0) - here.get(name, 0)) for name in files)
