"""Texts: perplexity of hybrids on a text file, or their divergence from the donor.

A text is cut into chunks of tokens; a chunk counts as one question. Its value, in nats a token, is
0 or below: the mean log-likelihood (perplexity is exp(-mean)), or -KL(donor || hybrid).
Shapes: B chunks, T tokens, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

import optlayers.models  # noqa: F401 -- registers Llamba with the Auto classes
from optlayers.checkpoints.parents import Parents
from optlayers.config.fields import TaskSpec
from optlayers.config.study import StudyDefinition
from optlayers.errors import InputError, ModelError, reason
from optlayers.evaluation.questions import Request, Subject
from optlayers.inference.prefix_tree import schedule, walk
from optlayers.inference.stack import LayerStack
from optlayers.layerset import LayerSet

# Tokens a batch: each of them meets the whole vocabulary.
BUDGET = 2_048


def read_chunks(spec: TaskSpec, path: Path, tokenizer: Any, max_length: int) -> list[Request]:
    """The chunks of a text file, each with the token before it as context, in order.

    A last chunk that is not full is left out unless it is the only one. Raises `InputError` for a
    file that cannot be used.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"tasks: text {path}: {why}; name a readable text file") from None
    tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    first = tokenizer.bos_token_id
    start = first if first is not None else tokenizer.eos_token_id
    size = min(spec.chunk, max_length)
    runs = [tokens[i : i + size] for i in range(0, len(tokens), size)]
    full = [run for run in runs if len(run) == size] or [run for run in runs if len(run) > 1]
    if not full:
        raise InputError(f"tasks: text {path}: fewer than two tokens; name a longer text")
    if start is None:
        return [Request(tuple(run[:-1]), tuple(run[1:])) for run in full]
    return [Request((start, *run[:-1]), tuple(run)) for run in full]


class Texts:
    """The texts of a study with their chunks, and how to evaluate them.

    limit: take the first chunks of each. reference: the donor as a transformers model, for `kl`.
    subjects: one for each text; its size is its number of chunks.
    """

    def __init__(
        self,
        definition: StudyDefinition,
        tokenizer: Any,
        stack: LayerStack,
        device: torch.device,
        max_length: int,
        limit: int | None,
        reference: Any,
    ) -> None:
        self.stack, self.device, self.reference = stack, device, reference
        self.specs = [spec for spec in definition.tasks if spec.text is not None]
        self.chunks: list[list[Request]] = []
        self.subjects: list[Subject] = []
        for spec in self.specs:
            path = Path(definition.resolve(str(spec.text)))
            chunks = read_chunks(spec, path, tokenizer, max_length)[:limit]
            digest = hashlib.sha256(repr(chunks).encode()).hexdigest()[:16]
            self.chunks.append(chunks)
            self.subjects.append(Subject(spec.name, len(chunks), spec.weight, digest=digest))

    def values(
        self, layer_sets: Sequence[LayerSet], text: int, numbers: Sequence[int]
    ) -> NDArray[np.float64]:
        """Nats a token [layer sets, chunks] on some chunks of one text; NaN where logits are."""
        chunks = [self.chunks[text][number] for number in numbers]
        step = max(1, BUDGET // len(chunks[0].tokens))
        kl = self.specs[text].metric == "kl"
        parts = [
            self._batch(layer_sets, chunks[start : start + step], kl)
            for start in range(0, len(chunks), step)
        ]
        return np.concatenate(parts, axis=1)

    @torch.inference_mode()
    def _batch(
        self, layer_sets: Sequence[LayerSet], chunks: Sequence[Request], kl: bool
    ) -> NDArray[np.float64]:
        """Nats a token [layer sets, B] on chunks of one length."""
        stack = self.stack
        tokens = torch.tensor([chunk.tokens for chunk in chunks], device=self.device)
        targets = torch.tensor([chunk.targets for chunk in chunks], device=self.device)
        wanted = targets.shape[1]
        theirs = None
        if kl:
            # Over the vocabulary that both have.
            vocabulary = stack.sides[0].config.vocab_size
            logits = self.reference(tokens).logits[:, -wanted:, :vocabulary]
            theirs = torch.log_softmax(logits.float(), dim=-1)
        h, inputs = stack.begin(tokens)
        found = np.full((len(layer_sets), len(chunks)), np.nan)

        def run(layer: int, origin: int, state: torch.Tensor) -> torch.Tensor:
            return stack.run(layer, origin, state, inputs)

        def arrive(candidate: int, state: torch.Tensor) -> None:
            for b in range(len(chunks)):
                # One chunk at a time: the logits of all would take many gigabytes.
                logits = stack.logits(state[b, -wanted:]).float()
                if theirs is None:
                    logs = torch.log_softmax(logits, dim=-1)
                    value = logs.gather(1, targets[b, :, None]).double().mean()
                else:
                    logs = torch.log_softmax(logits[:, : theirs.shape[-1]], dim=-1)
                    gap = theirs[b] - logs
                    value = -(theirs[b].exp() * gap).sum(dim=-1).double().mean()
                found[candidate, b] = float(value)

        stack.expect(schedule(layer_sets, stack.space))
        walk(layer_sets, stack.space, h, run, arrive)
        # Rounding can put the divergence of a model from itself slightly above 0.
        return np.asarray(np.minimum(found, 0.0))


def load_reference(
    definition: StudyDefinition, parents: Parents, device: torch.device, dtype: torch.dtype
) -> Any:
    """The whole first donor, where a text of the study uses `kl`; else None.

    Raises `InputError` where base and donor differ in vocabulary, and `ModelError` where
    transformers cannot load the donor.
    """
    if not any(spec.metric == "kl" for spec in definition.tasks):
        return None
    donor = parents.donors[0]
    mine, theirs = parents.base.config.vocab_size, donor.config.vocab_size
    if mine != theirs:
        raise InputError(
            f"tasks: metric kl compares over one vocabulary, and base and donor have {mine} "
            f"and {theirs} tokens; use perplexity"
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(donor.folder, dtype=dtype)
    except Exception as error:
        raise ModelError(
            f"donor {donor.folder}: cannot be loaded whole for metric kl ({reason(error)}); fetch "
            "it again"
        ) from None
    return model.to(device).eval()
