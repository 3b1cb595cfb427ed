"""The donor as a teacher: loaded, its hidden states, what goes in and out of its attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from optlayers.checkpoints.reader import Checkpoint
from optlayers.checkpoints.tokenizer import has_tokenizer
from optlayers.errors import ModelError, RunError, reason
from optlayers.models.families import FAMILIES, embedding_rows

# Called with the number of a layer, the normed input of its attention and its output, [B, T, E].
Watch = Callable[[int, torch.Tensor, torch.Tensor], None]


def load_donor(donor: Checkpoint, dtype: str, device: torch.device) -> tuple[Any, Any]:
    """The tokenizer and the model of a donor, frozen.

    Raises `ModelError` where they cannot be loaded or do not fit each other, `RunError` where the
    model does not fit into memory.
    """
    if not has_tokenizer(donor.folder):
        raise ModelError(f"donor {donor.name}: it has no tokenizer; add the files of one")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(donor.folder))
        tokenizer("a")  # some settings fail only here
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(donor.folder), dtype=getattr(torch, dtype), attn_implementation="sdpa"
        ).to(device)
    except torch.OutOfMemoryError:
        raise RunError(
            f"donor {donor.name}: out of memory while it is loaded; use a larger GPU, or --dtype "
            "bfloat16"
        ) from None
    except Exception as error:
        raise ModelError(
            f"donor {donor.name}: it cannot be loaded ({reason(error)}); fetch it again"
        ) from None
    highest, rows = max(tokenizer.get_vocab().values(), default=0), embedding_rows(donor.config)
    if highest >= rows:
        raise ModelError(
            f"donor {donor.name}: its tokenizer has ids up to {highest} and it embeds {rows} "
            "tokens; they are not of one model, so fetch both again"
        )
    return tokenizer, model.eval().requires_grad_(False)


class Teacher:
    """Runs the layers of a loaded transformers model, without gradients.

    Layer by layer instead of as a whole, so that nothing waits for the device and a step can be
    recorded as a CUDA graph.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.family = FAMILIES[model.config.model_type]
        self.layers: Any = model.get_submodule(self.family.layers)
        self._embedding = model.get_submodule(self.family.embedding)
        self._norm = model.get_submodule(self.family.norm)
        self._rotary = model.get_submodule(self.family.layers.rpartition(".")[0]).rotary_emb
        self._kinds = self.family.kinds(model.config)

    @torch.no_grad()
    def states(self, tokens: torch.Tensor, watch: Watch | None = None) -> torch.Tensor:
        """The last hidden states [B, T, E] of tokens [B, T], as the head takes them."""
        h = self._embedding(tokens)
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        inputs = {
            kind: self.family.inputs(self.model.config, self._rotary, kind, h, positions)
            for kind in dict.fromkeys(self._kinds)
        }
        for number, (layer, kind) in enumerate(zip(self.layers, self._kinds, strict=True)):
            x = layer.input_layernorm(h)
            y = self.family.halves.mix(layer, x, inputs[kind])
            if watch is not None:
                watch(number, x, y)
            h = self.family.halves.run_mlp(layer, h + y)
        out: torch.Tensor = self._norm(h)
        return out
