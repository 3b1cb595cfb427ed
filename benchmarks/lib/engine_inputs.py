"""What the engine's benchmarks run on: random weights, and questions of MMLU's shape."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.lib.random_pair import configs
from optlayers.evaluation.questions import Question, Request
from optlayers.inference.flat import flat_size, flatten
from optlayers.inference.loading import Side
from optlayers.inference.offload import Layers, place
from optlayers.inference.stack import LayerStack
from optlayers.layerset import LayerSet
from optlayers.models.families import Family, config_from_dict, family_of
from optlayers.models.hybrid import HybridConfig, HybridForCausalLM

SUBJECTS, CHOICES = 57, 4
# MMLU's examples are longer than its questions: an answer follows, and five make 700 tokens.
EXAMPLE = 1.45


def random_stack(
    name: str, device: torch.device, dtype: torch.dtype, memory: int | None = None
) -> LayerStack:
    """Both parents' layers with random weights of a size that keeps activations near 1.

    memory: bytes of the device to use; layers that do not fit wait in host memory.
    """
    generator = torch.Generator(device).manual_seed(0)

    def fill(module: nn.Module) -> nn.Module:
        for parameter in module.parameters():
            if parameter.dim() == 2:
                scale = parameter.shape[1] ** -0.5
                parameter.data.normal_(0.0, scale, generator=generator)
            elif parameter.dim() == 3:
                parameter.data.normal_(0.0, 0.5, generator=generator)
        return module.eval().requires_grad_(False)

    sides: list[Side] = []
    placement = None
    if memory is not None:
        pair = [config_from_dict(data) for data in configs(name)]
        sizes = [flat_size(empty_layer(family_of(c), c, 0)) * dtype.itemsize for c in pair]
        ends = 2 * pair[0].vocab_size * pair[0].hidden_size * dtype.itemsize
        placement = place((sizes[0], sizes[1]), pair[0].num_hidden_layers, ends, memory)
        print(placement, flush=True)
    old = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            for data in configs(name):
                config = config_from_dict(data)
                config._attn_implementation = "sdpa"
                family, layers = family_of(config), Layers()
                for i in range(config.num_hidden_layers):
                    layer = fill(family.build_layer(config, i))
                    if placement is not None and not placement.stays(len(sides), i):
                        build = functools.partial(empty_layer, family, config, i)
                        layers.append_offloaded(layer, build, device)
                        continue
                    if device.type == "cuda":
                        flatten(layer, torch.empty(flat_size(layer)))
                    layers.append(layer)
                rotary = family.build_rotary(config) if family.build_rotary else None
                sides.append(Side(family, config, layers, family.kinds(config), rotary))
            base = sides[0].config
            embedding = nn.Embedding(base.padded_vocab_size, base.hidden_size)
            fill(embedding)
            norm = fill(sides[0].family.build_norm(base))
            head = nn.Linear(base.hidden_size, base.padded_vocab_size, bias=False)
            fill(head)
    finally:
        torch.set_default_dtype(old)
    return LayerStack(sides, embedding, norm, head)


def empty_layer(family: Family, config: Any, index: int) -> nn.Module:
    """A decoder layer without weights."""
    with torch.device("meta"):
        made: nn.Module = family.build_layer(config, index)
    return made


def questions(vocab: int, shots: int = 0, per_subject: int = 10) -> list[Question]:
    """MMLU-shaped: a line that names the subject, `shots` examples, then 25 to 600 tokens.

    As with Llama's tokenizer, the line is 12 tokens that all subjects share and 4 of its own.
    Examples are as long as MMLU's, 140 tokens in the mean.
    """
    rng = np.random.default_rng(0)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(100, vocab, count))

    def length() -> int:
        return int(np.clip(rng.lognormal(4.42, 0.55), 25, 600))

    made, line = [], draw(12)
    for subject in range(SUBJECTS):
        header = line + draw(4)
        for _ in range(shots):
            header += draw(int(length() * EXAMPLE) + 1)
        for document in range(per_subject):
            tokens = header + draw(length())
            choices = tuple(Request(tokens, (32 + c,)) for c in range(CHOICES))
            made.append(Question(subject, document, choices))
    return made


class FirstIsRight:
    """Scores a question by its likeliest choice, as lm-eval's acc does."""

    def value(self, question: Question, results: Sequence[tuple[float, bool]]) -> float:
        """The first choice is called right."""
        return float(np.argmax([ll for ll, _ in results]) == 0)

    def winners(self, question: Question) -> Any:
        """One-hot."""
        return np.arange(len(question.requests)) == 0


def hybrid(stack: LayerStack, layers: LayerSet) -> Any:
    """The transformers model of a layer set, made of the stack's own modules."""
    base, donor = (side.config for side in stack.sides)
    config = HybridConfig(base.to_dict(), donor.to_dict(), list(layers))
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = HybridForCausalLM(config)
    chosen = [stack.sides[i in layers].layers[i] for i in range(stack.n_layers)]
    model.model.layers = nn.ModuleList(chosen)
    model.model.set_submodule("embed_tokens", stack.embedding)
    model.model.norm = stack.norm
    model.model.rotary = nn.ModuleDict(
        {str(s): side.rotary for s, side in enumerate(stack.sides) if side.rotary is not None}
    )
    model.lm_head = stack.head
    return model.eval()


def tokenizer() -> Any:
    """HFLM wants one; the questions are tokens already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"<|end|>": 0}, unk_token="<|end|>"))
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|end|>")
