"""The tensors that a config asks for, and how those of a folder fit: the check of every command.

transformers is the reference: names and shapes are those of its own model, built on the meta
device. What it would initialize at random, refuse, or read without its scales is an error here.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

import optlayers.models  # noqa: F401 -- registers Llamba and the hybrid with the Auto classes
from optlayers.checkpoints.tensorfile import FLOATS, TensorEntry
from optlayers.models.families import family_of

# Buffers that older versions of transformers saved and newer ones compute.
OLD_BUFFERS = re.compile(r"rotary_emb\.inv_freq$|(^|\.)position_ids$")
# How transformers dequantizes a model, by `quant_method`.
DEQUANTIZE = {
    "bitsandbytes": "model.dequantize()",
    "compressed-tensors": "CompressedTensorsConfig(dequantize=True)",
    "fp8": "FineGrainedFP8Config(dequantize=True)",
    "mxfp4": "Mxfp4Config(dequantize=True)",
}


# Whether a tensor of that name is needed.
Needed = Callable[[str], bool]


@dataclass(frozen=True)
class ExpectedTensors:
    """The tensors of a model by name, with their shapes.

    prefix: the name of the model without its head, which transformers adds to a name or removes.
    tied: whether the config ties the tensor `head` to the tensor `embedding`.
    """

    shapes: Mapping[str, tuple[int, ...]]
    prefix: str
    embedding: str
    head: str
    tied: bool

    @classmethod
    def of(cls, config: PreTrainedConfig) -> ExpectedTensors:
        """From a config; passes on what transformers raises for an invalid one."""
        if int(config.num_hidden_layers) < 1:
            raise ValueError(f"{config.num_hidden_layers} layers; a model has one or more")
        with torch.device("meta"):
            # The attention has no tensors, and may name a package that is not needed here.
            model: Any = AutoModelForCausalLM.from_config(
                copy.deepcopy(config), attn_implementation="eager"
            )
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        names = dict(model.named_parameters(remove_duplicate=False))
        return cls(
            shapes,
            str(model.base_model_prefix),
            next(name for name, tensor in names.items() if tensor is embedding),
            # Of two names of one tensor the head's is the last.
            [name for name, tensor in names.items() if tensor is head][-1],
            head is embedding,
        )

    def place(self, name: str) -> str | None:
        """The tensor of the model that transformers fills from one of that name, or None."""
        start = f"{self.prefix}."
        known = [name.removeprefix(start)] if name.startswith(start) else []
        return next((n for n in (*known, start + name, name) if n in self.shapes), None)

    def fault(
        self, found: Mapping[str, TensorEntry], others: Iterable[str], needed: Needed
    ) -> str | None:
        """What is wrong with the needed tensors of a folder, in one line; None if nothing is.

        others: the names that the model does not use.
        """
        for name, shape in self.shapes.items():
            if not needed(name):
                continue
            if name not in found:
                if self.tied and name in (self.head, self.embedding):
                    continue  # the other one is checked
                prefixed = [other for other in others if other.endswith(f".{name}")]
                if prefixed:
                    prefix = prefixed[0].removesuffix(name)
                    return (
                        f"tensor {name} is missing from the weights, which have {prefixed[0]}; "
                        f"save them without the prefix {prefix!r}"
                    )
                module = name.removesuffix("weight")
                instead = [other for other in others if other.startswith(module)]
                if instead:
                    return (
                        f"tensor {name} is missing from the weights, which have {min(instead)}; "
                        "merge adapters, or dequantize the model, and save it whole"
                    )
                tie = ", and config.json does not tie it to the embedding"
                return (
                    f"tensor {name} is missing from the weights"
                    f"{tie if name == self.head else ''}; fetch them again"
                )
            entry = found[name]
            if entry.dtype not in FLOATS:
                return (
                    f"tensor {name} holds {entry.dtype} values, which mean nothing without the "
                    f"scales of a quantization; use weights in {', '.join(FLOATS)}"
                )
            if entry.shape != shape:
                return (
                    f"tensor {name} has shape {entry.shape}; config.json asks for {shape}; they "
                    "are not of one model, so fetch both again"
                )
        if self.tied and needed(self.head) and not {self.head, self.embedding} & set(found):
            return f"tensor {self.embedding} is missing from the weights; fetch them again"
        return None


def check_sizes(config: PreTrainedConfig) -> None:
    """Raise `ValueError` for sizes that matter only when a model runs."""
    windowed = any("sliding" in kind for kind in family_of(config).kinds(config))
    for name in ("sliding_window",) * windowed + ("mamba_chunk_size",):
        value = getattr(config, name, None if name == "sliding_window" else 1)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; it is a whole number of 1 or more")


def refuse_unreadable(data: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a `config.json` of quantized weights, or of a file not looked for."""
    if data.get("transformers_weights"):
        raise ValueError(
            "transformers_weights names another file of weights; rename that file to "
            "model.safetensors and remove the field"
        )
    for key in ("quantization_config", "compression_config"):
        found = data.get(key)
        if found is None:
            continue
        method = found.get("quant_method") if isinstance(found, dict) else None
        how = DEQUANTIZE.get(str(method), "")
        fix = f"dequantize it once with transformers ({how}), or " if how else ""
        raise ValueError(
            f"{key}: the weights are quantized ({method}), and a layer cannot be moved without "
            f"its scales; {fix}use the model that it was made from"
        )
