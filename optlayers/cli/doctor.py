"""`optlayers doctor`: whether this machine can run a study, one check per row."""

from __future__ import annotations

import importlib.metadata as metadata
import math
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from optlayers.cli import options as opt
from optlayers.cli.app import app
from optlayers.config.study import load_study
from optlayers.errors import OptlayersError
from optlayers.storage.connect import stored_definition
from optlayers.storage.redact import mask_password
from optlayers.storage.sqlite import plain_url

OK, WARN, FAIL = "ok", "warn", "fail"
PACKAGES = ("torch", "transformers", "lm_eval", "optuna")
# Memory besides the weights: activations, the logits of a batch, the allocator's slack.
SPARE_BYTES = 4_000_000_000
# Disk space that a study takes besides models and checkpoints: database, reports, task data.
STUDY_BYTES = 1_000_000_000
HUB_SECONDS = 10.0

Result = tuple[str, str]  # a status, and what was found and how to fix it


@dataclass
class ModelSizes:
    """Bytes of a study's models: on the device, to download, and of a checkpoint.

    None: not known, because a model is not here and the hub does not say.
    """

    weights: int = 0
    download: int | None = 0
    checkpoint: int | None = 0


@app.command()
def doctor(
    study: opt.Study = "demo",
    storage: opt.Storage = opt.DEFAULT_URL,
    device: opt.Device = None,
    json: opt.Json = False,
) -> None:
    """Check that this machine can run a study.

    Software, GPU, models, tokenizer, memory, disk, database, token and kernels. Nothing is
    downloaded and no study is created. Exit code 1 if a check fails.
    """
    from optlayers.cli.tables import console, print_json, print_table
    from optlayers.inference.device import pick_device

    definition = load_study(study)
    where = pick_device(device)
    models, sizes, here = _models(definition, where)
    found: dict[str, Result] = {
        "Python": (OK, f"{platform.python_version()} on {platform.system()}"),
        "torch": (OK, ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)),
        "GPU": _gpu(where),
        **models,
        **_fit(definition, here),
        "memory": _memory(sizes, models, where),
        "disk": _disk(sizes),
        "database": _database(definition, storage),
        "token": _token(definition),
        "kernels": _kernels(where),
    }
    if json:
        print_json([{"what": k, "verdict": v, "found": text} for k, (v, text) in found.items()])
    else:
        columns = {
            "": list(found),
            "verdict": [verdict for verdict, _ in found.values()],
            "found": [text for _, text in found.values()],
        }
        title = f"this machine for study {definition.name}"
        print_table(console(), title, columns, left=list(columns), wrapped="found")
    if any(verdict == FAIL for verdict, _ in found.values()):
        raise typer.Exit(1)


def _gpu(device: Any) -> Result:
    import torch

    driver = _driver_version()
    if device.type == "cpu":
        if driver and not torch.cuda.is_available():
            return FAIL, (
                f"driver {driver}, but torch {torch.__version__} sees no GPU; install a torch "
                "build for this driver"
            )
        return WARN, "none is used; a CPU is enough for the demo and small models"
    properties = torch.cuda.get_device_properties(device)
    text = (
        f"{torch.cuda.device_count()} x {properties.name}, {properties.total_memory / 1e9:.0f} GB, "
        f"CUDA {torch.version.cuda}, driver {driver or 'unknown'}"
    )
    if not torch.cuda.is_bf16_supported():
        return WARN, f"{text}; no bfloat16: use --dtype float16"
    return OK, text


def _driver_version() -> str:
    """The version of the NVIDIA driver, or nothing."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout else ""


def _models(definition: Any, device: Any) -> tuple[dict[str, Result], ModelSizes, list[Any]]:
    """Whether base and donors are here and complete, how large they are, and those that are."""
    from optlayers.checkpoints.fetch import known_folder
    from optlayers.checkpoints.reader import Checkpoint, ModelConfig
    from optlayers.cli.fetch import models_of

    found: dict[str, Result] = {}
    here: list[Any] = []
    sizes = ModelSizes()
    width = 4 if device.type == "cpu" else 2
    for part, spec, needed in models_of(definition):
        try:
            model = definition.resolve(spec.model)
            folder = known_folder(model, spec.revision)
            # A folder without weights: only its small files have been downloaded.
            if folder is None or not any(folder.glob("*.safetensors")):
                if folder is not None and (folder / "config.json").is_file():
                    ModelConfig(spec.model, folder)  # which `fetch` would refuse
                fix = f"run `optlayers fetch --study {definition.name}`"
                found[part] = WARN, f"{spec.model} is not downloaded; {fix}"
                size = _size_on_hub(model, spec.revision)
                known = sizes.download is not None and size is not None
                sizes.download = (sizes.download or 0) + (size or 0) if known else None
                sizes.checkpoint = size if part == "base" else sizes.checkpoint
                continue
            checkpoint = Checkpoint(spec.model, folder, needed)
            entries = [checkpoint.entry(name) for name in checkpoint.names()]
        except OptlayersError as error:
            found[part] = FAIL, str(error)
            continue
        values = sum(math.prod(entry.shape) for entry in entries)
        sizes.weights += values * width
        if part == "base":
            sizes.checkpoint = sum(entry.size for entry in entries)
        text = f"{spec.model}: {checkpoint.n_layers} layers, {values / 1e6:,.1f} M parameters"
        found[part] = OK, text
        here.append(checkpoint)
    return found, sizes, here


def _fit(definition: Any, here: list[Any]) -> dict[str, Result]:
    """Whether the models that are here fit each other, the study and its tokenizer."""
    from optlayers.checkpoints.fetch import known_folder
    from optlayers.checkpoints.parents import Parents, check_study
    from optlayers.checkpoints.tokenizer import load_tokenizer, tokenizer_note

    def find(where: str, revision: str | None) -> Path:
        folder = known_folder(where, revision)
        if folder is None:
            raise FileNotFoundError(where)
        return folder

    if len(here) <= len(definition.donor_specs):
        unknown = WARN, "unknown until all models are here"
        return {"pair": unknown, "tokenizer": unknown}
    base, *donors = here
    parents = Parents(base, tuple(donors))
    try:
        check_study(definition, parents)
        notes = "; ".join(parents.notes)
        pair = (WARN, notes) if notes else (OK, "base and donors fit each other and the study")
    except OptlayersError as error:
        pair = FAIL, str(error)
    try:
        tokenizer = load_tokenizer(definition, base, find)
        note = tokenizer_note(definition, base, tokenizer, find)
        fits = (WARN, note) if note else (OK, f"{len(tokenizer):,} tokens, which the base embeds")
    except OptlayersError as error:
        fits = FAIL, str(error)
    except FileNotFoundError as error:
        fix = f"run `optlayers fetch --study {definition.name}`"
        fits = WARN, f"{error} is not downloaded; {fix}"
    return {"pair": pair, "tokenizer": fits}


def _size_on_hub(model: str, revision: str | None) -> int | None:
    """Bytes of a model's weight files, as the hub says; None if it does not."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(
            model, revision=revision, files_metadata=True, timeout=HUB_SECONDS
        )
    except Exception:
        return None  # no network, no rights, no such model: `fetch` says which
    files = [x for x in info.siblings or [] if "/" not in x.rfilename]
    return sum(x.size or 0 for x in files if x.rfilename.endswith(".safetensors"))


def _memory(sizes: ModelSizes, models: dict[str, Result], device: Any) -> Result:
    import torch

    if device.type == "cpu":
        total, need = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), sizes.weights
    else:
        total = torch.cuda.get_device_properties(device).total_memory
        need = sizes.weights + SPARE_BYTES
    if any(verdict != OK for verdict, _ in models.values()):
        why = "how much is needed is unknown until the models are downloaded"
        return WARN, f"{total / 1e9:.0f} GB; {why}"
    text = f"{total / 1e9:.0f} GB; the weights take {sizes.weights / 1e9:.2f} GB"
    if need <= total:
        return OK, text
    if device.type == "cuda" and need / 2 <= total:
        return WARN, f"{text}; layers will be streamed from host memory, which is slower"
    return FAIL, f"{text}; use a larger device, or one worker per machine"


def _disk(sizes: ModelSizes) -> Result:
    """Whether there is room for downloads, the study and one checkpoint."""
    from optlayers.checkpoints.fetch import cache_folder
    from optlayers.checkpoints.files import free_bytes, nearest_existing

    here, cache = Path.cwd(), cache_folder()
    free = {"here": free_bytes(here), "in the Hugging Face cache": free_bytes(cache)}
    need = {
        "here": STUDY_BYTES + (sizes.checkpoint or 0),
        "in the Hugging Face cache": sizes.download or 0,
    }
    if here.stat().st_dev == nearest_existing(cache).stat().st_dev:
        free, need = {"here": free["here"]}, {"here": sum(need.values())}
    text = ", ".join(
        f"{free[place] / 1e9:.0f} GB free {place}, {need[place] / 1e9:.1f} GB needed"
        for place in free
    )
    full = [place for place in free if free[place] < need[place]]
    if full:
        return FAIL, f"{text}; free some space {' and '.join(full)}"
    if sizes.download is None or sizes.checkpoint is None:
        return WARN, f"{text}, and the models, whose size the hub does not say"
    return OK, f"{text} for models, the study and a checkpoint"


def _database(definition: Any, storage: str) -> Result:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    shown = mask_password(storage)
    try:
        url = make_url(plain_url(storage) if storage.startswith("sqlite") else storage)
        path = Path(url.database or ":memory:")
        if url.get_backend_name() == "sqlite" and not path.exists():
            folder = path.absolute().parent
            if folder.is_dir() and os.access(folder, os.W_OK):
                return OK, f"{shown}, which the search will create"
            return FAIL, f"{shown}: {folder} is not writable; choose another folder"
        known = stored_definition(storage, definition.name)
    except ArgumentError:
        return FAIL, f"{shown}: not a database URL; correct --storage"
    except OptlayersError as error:
        return FAIL, str(error)
    return OK, f"{shown}, with{'' if known else 'out'} a study {definition.name}"


def _token(definition: Any) -> Result:
    from huggingface_hub import get_token

    from optlayers.checkpoints.fetch import known_folder

    if get_token():
        return OK, "a Hugging Face token is set"
    specs = (definition.base, *definition.donor_specs)
    missing = [
        s.model for s in specs if known_folder(definition.resolve(s.model), s.revision) is None
    ]
    if missing:
        gated = f"none, and {', '.join(missing)} may be gated"
        return WARN, f"{gated}; set HF_TOKEN or run `hf auth login`"
    return OK, "none, and none is needed: the models are here"


def _kernels(device: Any) -> Result:
    if device.type != "cuda":
        return OK, "plain PyTorch, as always on a CPU"
    try:
        import triton

        import optlayers.inference.kernels  # noqa: F401
    except ImportError as error:
        return WARN, f"no Triton ({error}): layers run slower; install optlayers[gpu]"
    return OK, f"fused, Triton {triton.__version__}"
