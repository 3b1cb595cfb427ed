"""`optlayers doctor`: whether this machine can run a study, a verdict a row."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from optlayers.cli.app import DeviceOption, JsonOption, StorageOption, StudyOption, app
from optlayers.storage.connect import DEFAULT_URL

OK, WARN, FAIL = "ok", "look", "mend"
# Beside the weights: activations, the logits of a batch, the allocator's slack.
SPARE_BYTES = 4_000_000_000
# Database, reports, task data: what a study writes beside models and checkpoints.
STUDY_BYTES = 1_000_000_000
ASK_SECONDS = 10.0


@dataclass(frozen=True)
class Finding:
    """One row: what was looked at, the verdict, what was found and, where needed, the mend."""

    what: str
    verdict: str
    found: str


@dataclass
class Sizes:
    """What a study's models take, in bytes: on the device, still to be fetched, as a checkpoint.

    None: not known, since a model is not here and the hub does not say.
    """

    weights: int = 0
    fetch: int | None = 0
    checkpoint: int | None = 0


@app.command()
def doctor(
    study: StudyOption = "demo",
    storage: StorageOption = DEFAULT_URL,
    device: DeviceOption = None,
    json: JsonOption = False,
) -> None:
    """Check this machine for a study: software, GPU, memory, disk, database, models, kernels.

    Exit code 1 where something must be mended. Nothing is fetched, and no study is made.
    """
    from optlayers.cli.tables import console, print_json
    from optlayers.config.study import load_study
    from optlayers.inference.device import pick_device

    definition = load_study(study)
    where = pick_device(device)
    models, sizes = _models(definition, where)
    found = [
        _python(platform.python_version()),
        _torch(),
        _gpu(where),
        *models,
        _disk(sizes),
        _database(definition, storage),
        _token(definition),
        _kernels(where),
    ]
    if json:
        print_json([asdict(row) for row in found])
    else:
        console().print(_table(found, definition.name))
    if any(row.verdict == FAIL for row in found):
        raise typer.Exit(1)


def _table(found: list[Finding], name: str) -> Any:
    from rich.table import Table

    table = Table(title=f"this machine for study {name}", title_justify="left")
    for column in ("", "verdict"):
        table.add_column(column, no_wrap=True)
    table.add_column("found")
    for row in found:
        table.add_row(row.what, row.verdict, row.found)
    return table


def _python(version: str) -> Finding:
    import importlib.metadata as metadata

    from packaging.specifiers import SpecifierSet

    needed = str(metadata.metadata("optlayers")["Requires-Python"])
    found = f"{version} on {platform.system()} {platform.machine()}"
    if not SpecifierSet(needed).contains(version, prereleases=True):
        return Finding("Python", FAIL, f"{found}; optlayers needs {needed}, so install another")
    return Finding("Python", OK, found)


def _torch() -> Finding:
    import importlib.metadata as metadata

    names = ("torch", "transformers", "lm_eval", "optuna")
    found, missing = [], []
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    text = ", ".join(found)
    if missing:
        return Finding("torch", FAIL, f"{text}; missing: {', '.join(missing)}; install optlayers")
    return Finding("torch", OK, text)


def _gpu(device: Any) -> Finding:
    import torch

    if device.type == "cpu":
        seen = _nvidia_smi()
        if seen and not torch.cuda.is_available():
            return Finding(
                "GPU",
                FAIL,
                f"{seen}, and torch {torch.__version__} does not see it; install torch for its "
                "driver",
            )
        return Finding("GPU", WARN, "the CPU will do the work; that is enough for the demo")
    properties = torch.cuda.get_device_properties(device)
    count = torch.cuda.device_count()
    text = (
        f"{count} x {properties.name}, {properties.total_memory / 1e9:.0f} GB, "
        f"CUDA {torch.version.cuda}, driver {_nvidia_smi() or 'unknown'}"
    )
    if not torch.cuda.is_bf16_supported():
        return Finding("GPU", WARN, f"{text}; no bfloat16, so use --dtype float16")
    return Finding("GPU", OK, text)


def _nvidia_smi() -> str:
    """The driver's version, or nothing where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    done = subprocess.run(
        [tool, "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout else ""


def _models(definition: Any, device: Any) -> tuple[list[Finding], Sizes]:
    """Whether the models are here, and whether memory holds both; what they take."""
    from optlayers.checkpoints.fetch import decoder_layers, everything, known_folder
    from optlayers.checkpoints.reader import Checkpoint
    from optlayers.errors import OptlayersError

    found, sizes = [], Sizes()
    width = 4 if device.type == "cpu" else 2
    donors = zip(definition.donor_names, definition.donor_specs, strict=True)
    for part, spec, needed in (
        ("base", definition.base, everything),
        *(
            (name, spec, decoder_layers(definition.graft.sources(None, place)))
            for place, (name, spec) in enumerate(donors)
        ),
    ):
        try:
            where = definition.resolve(spec.model)
            folder = known_folder(where, spec.revision)
            # A model whose small files alone were fetched has a folder too.
            if folder is None or not any(folder.glob("*.safetensors")):
                why = f"{spec.model} is not here; run `optlayers fetch --study {definition.name}`"
                found.append(Finding(part, WARN, why))
                size = _size_on_hub(where, spec.revision)
                known = sizes.fetch is not None and size is not None
                sizes.fetch = (sizes.fetch or 0) + (size or 0) if known else None
                sizes.checkpoint = size if part == "base" else sizes.checkpoint
                continue
            checkpoint = Checkpoint(spec.model, folder, needed)
            entries = [checkpoint.entry(name) for name in checkpoint.names() if needed(name)]
        except OptlayersError as error:
            found.append(Finding(part, FAIL, str(error)))
            continue
        values = sum(_count(entry.shape) for entry in entries)
        sizes.weights += values * width
        if part == "base":
            sizes.checkpoint = sum(entry.size for entry in entries)
        text = f"{spec.model}: {checkpoint.n_layers} layers, {values / 1e6:,.1f} million weights"
        found.append(Finding(part, OK, text))
    if all(row.verdict == OK for row in found):
        return [*found, _memory(sizes.weights, device)], sizes
    unknown = f"{_total(device) / 1e9:.0f} GB; the need is known once the models are here"
    return [*found, Finding("memory", WARN, unknown)], sizes


def _size_on_hub(where: str, revision: str | None) -> int | None:
    """Bytes of a model's weight files, as the hub says; None where it says nothing."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(
            where, revision=revision, files_metadata=True, timeout=ASK_SECONDS
        )
    except Exception:
        # No network, no rights, no such model: `fetch` says which, and the mend.
        return None
    files = [x for x in info.siblings or [] if "/" not in x.rfilename]
    return sum(x.size or 0 for x in files if x.rfilename.endswith(".safetensors"))


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


def _total(device: Any) -> int:
    """Bytes of memory of a device."""
    if device.type == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    import torch

    return int(torch.cuda.get_device_properties(device).total_memory)


def _memory(weights: int, device: Any) -> Finding:
    total, need = _total(device), weights + (SPARE_BYTES if device.type == "cuda" else 0)
    text = f"{total / 1e9:.0f} GB, of which the layers of the models take {weights / 1e9:.2f} GB"
    if need <= total:
        return Finding("memory", OK, text)
    if device.type == "cuda" and need / 2 <= total:
        # Donor layers can wait outside of the GPU.
        return Finding("memory", WARN, f"{text}; layers will be streamed, which takes longer")
    return Finding("memory", FAIL, f"{text}; use a larger device, or one worker a machine")


def _disk(sizes: Sizes) -> Finding:
    """Whether there is room for what is still to be fetched, and for the study and a checkpoint."""
    from optlayers.checkpoints.fetch import cache_folder, existing, free_bytes

    here, cache = Path.cwd(), cache_folder()
    free = {"here": free_bytes(here), "in the Hugging Face cache": free_bytes(cache)}
    wanted = {
        "here": STUDY_BYTES + (sizes.checkpoint or 0),
        "in the Hugging Face cache": sizes.fetch or 0,
    }
    if here.stat().st_dev == existing(cache).stat().st_dev:
        free = {"here": free["here"]}
        wanted = {"here": sum(wanted.values())}
    text = ", ".join(
        f"{free[place] / 1e9:.0f} GB free {place}, {wanted[place] / 1e9:.1f} GB wanted"
        for place in free
    )
    short = [place for place in free if free[place] < wanted[place]]
    if short:
        return Finding("disk", FAIL, f"{text}; free some space {' and '.join(short)}")
    if sizes.fetch is None or sizes.checkpoint is None:
        return Finding("disk", WARN, f"{text}, and the models, whose size the hub does not say")
    return Finding("disk", OK, f"{text} for models, the study and a checkpoint")


def _database(definition: Any, storage: str) -> Finding:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    from optlayers.errors import OptlayersError
    from optlayers.storage.connect import stored_definition
    from optlayers.storage.redact import mask_password

    shown = mask_password(storage)
    try:
        url = make_url(storage)
        if url.get_backend_name() == "sqlite":
            path = Path(url.database or ":memory:")
            if not path.exists():
                folder = path.absolute().parent
                if folder.is_dir() and os.access(folder, os.W_OK):
                    return Finding("database", OK, f"{shown}, which the search will make")
                return Finding("database", FAIL, f"{shown}: {folder} cannot be written; mend it")
        known = stored_definition(storage, definition.name)
    except ArgumentError:
        return Finding("database", FAIL, f"{shown}: no database URL; mend --storage")
    except OptlayersError as error:
        return Finding("database", FAIL, str(error))
    holds = f"holds study {definition.name}" if known else f"has no study {definition.name} yet"
    return Finding("database", OK, f"{shown} answers, and {holds}")


def _token(definition: Any) -> Finding:
    from huggingface_hub import get_token

    from optlayers.checkpoints.fetch import known_folder

    specs = (definition.base, *definition.donor_specs)
    missing = [
        s.model for s in specs if known_folder(definition.resolve(s.model), s.revision) is None
    ]
    if get_token():
        return Finding("token", OK, "a Hugging Face token is set")
    if missing:
        why = f"none, and {', '.join(missing)} may be gated; set HF_TOKEN or run `hf auth login`"
        return Finding("token", WARN, why)
    return Finding("token", OK, "none, and none is needed: the models are here")


def _kernels(device: Any) -> Finding:
    if device.type != "cuda":
        return Finding("kernels", OK, "plain PyTorch, as on every CPU")
    try:
        import triton

        import optlayers.inference.kernels  # noqa: F401
    except ImportError as error:
        why = f"Triton is missing ({error}); layers run unfused, slower; install optlayers[gpu]"
        return Finding("kernels", WARN, why)
    return Finding("kernels", OK, f"fused, Triton {triton.__version__}")
