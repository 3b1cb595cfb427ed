"""Open what a study names: the device, the dtype, the tokenizer and the models."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoTokenizer

from optlayers.checkpoints.compatibility import check_parents
from optlayers.checkpoints.fetch import (
    decoder_layers,
    everything,
    model_folder,
    nothing,
    open_model,
)
from optlayers.checkpoints.reader import Checkpoint
from optlayers.config.study import StudyDefinition
from optlayers.errors import InputError, ModelError
from optlayers.layerset import LayerSet

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str | None) -> torch.device:
    """The device of that name (default: the first GPU, or the CPU); raises `InputError`."""
    if name is None:
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device {name!r}: write cpu, cuda or cuda:0") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {name!r}: this machine has no usable NVIDIA GPU; use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {name!r}: this machine has {torch.cuda.device_count()} GPUs, counted from 0"
        )
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r}: write cpu, cuda or cuda:0")
    return device


def pick_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The dtype of that name (default: float32 on the CPU, bfloat16 on a GPU)."""
    if name is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in DTYPES:
        raise InputError(f"dtype {name!r}: choose one of {', '.join(DTYPES)}")
    return DTYPES[name]


def tokenizer_folder(definition: StudyDefinition) -> Path:
    """The folder of the study's tokenizer: its own, or else the (first) donor's.

    Where the vocabularies differ, it is the base's, if that has one: the base's embedding rules.
    """
    if definition.tokenizer:
        return model_folder(definition.resolve(definition.tokenizer), None, nothing)
    base, donor = (
        model_folder(definition.resolve(spec.model), spec.revision, nothing)
        for spec in (definition.base, definition.donor_specs[0])
    )
    differ = len({_vocabulary(folder) for folder in (base, donor)}) > 1
    return base if differ and any(base.glob("tokenizer*")) else donor


def _vocabulary(folder: Path) -> object:
    """The size of a model's vocabulary; what is wrong with its config is said elsewhere."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("vocab_size")
    except (OSError, ValueError, AttributeError):
        return None


def load_tokenizer(definition: StudyDefinition) -> object:
    """The study's tokenizer; raises `ModelError`."""
    folder = tokenizer_folder(definition)
    try:
        return AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=definition.trust_remote_code
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
        raise ModelError(
            f"tokenizer {folder}: cannot be loaded ({type(error).__name__}: {reason}); name one "
            "with `tokenizer:` in the study file"
        ) from None


def open_pair(definition: StudyDefinition, layers: LayerSet | None = None) -> list[Checkpoint]:
    """Base and donors of a study, checked against each other and the study; no weights read.

    layers: which of the donors' will be read (None: all); files without them are not fetched.
    Raises `ModelError` for models that do not fit, `InputError` for a study that does not fit
    the models.
    """
    base = open_model(definition.resolve(definition.base.model), definition.base.revision)
    # The divergence from the (first) donor asks for the whole of it.
    whole = layers is None and any(task.metric == "kl" for task in definition.tasks)
    donors = [
        open_model(
            definition.resolve(spec.model),
            spec.revision,
            everything
            if whole and place == 0
            else decoder_layers(definition.graft.sources(layers, place)),
        )
        for place, spec in enumerate(definition.donor_specs)
    ]
    n_layers = check_parents([base, *donors], definition.graft)
    if definition.layers.max > n_layers:
        raise InputError(
            f"layers.max is {definition.layers.max}, and the models have {n_layers} layers; "
            "lower it"
        )
    scores = definition.prior.single_layer_scores
    if scores is not None and len(scores) != n_layers:
        raise InputError(
            f"prior.single_layer_scores: {len(scores)} scores, and the models have {n_layers} "
            "layers; give one score for each layer"
        )
    for known in definition.prior_layer_sets:
        try:
            known.check(n_layers, len(donors))
        except InputError as error:
            raise InputError(f"prior.layer_sets: {error}") from None
    return [base, *donors]
