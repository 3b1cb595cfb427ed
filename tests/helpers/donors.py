"""Tiny donors to convert, blocks of random tokens, and the parts of a conversion over them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from optlayers.checkpoints.reader import Checkpoint
from optlayers.distill.student import build_student, initialize, student_config
from optlayers.distill.teacher import Teacher
from optlayers.distill.text import Blocks
from optlayers.models.llamba import LlambaForCausalLM
from tests.helpers.families import saved, tiny
from tests.helpers.tiny import VOCAB, train_tiny_tokenizer

# Kinds of `families.tiny` that can be converted.
KINDS = ("llama", "mistral", "mistral-window", "qwen2", "qwen2-window", "qwen3", "smollm3")
LENGTH = 32
CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"

tokenizer = cache(train_tiny_tokenizer)


def chat_tokenizer() -> Any:
    """The tiny tokenizer with a chat template."""
    made = train_tiny_tokenizer()
    made.chat_template = CHAT
    return made


def tiny_model(kind: str = "llama", seed: int = 1, **more: Any) -> Any:
    """A frozen random donor of 3 layers, 32 wide; `more` changes its config."""
    settings = {"num_hidden_layers": 3, "rms_norm_eps": 1e-5, **more}
    return tiny(kind, seed, **settings).requires_grad_(False)


def donor_in(folder: Path, kind: str = "llama", **more: Any) -> Checkpoint:
    """A tiny donor with its tokenizer, written to a folder."""
    # Some tokenizer classes add special tokens of their own.
    model = tiny_model(kind, **{"vocab_size": VOCAB + 8, **more})
    tokenizer().save_pretrained(folder)
    return saved(model, folder)


def random_blocks(n: int = 40, length: int = LENGTH, held: int = 4, seed: int = 0) -> Blocks:
    """Blocks of random token ids."""
    tokens = np.random.default_rng(seed).integers(1, VOCAB, (n, length)).astype(np.int32)
    return Blocks(tokens, held, seed)


class KillError(Exception):
    """Stands for a kill."""


class Parts(NamedTuple):
    """What a conversion trains with: the teacher, the student, and the student's mixers."""

    teacher: Teacher
    student: LlambaForCausalLM
    mixers: list[Any]


def parts_of(model: Any, folder: Path, state: int = 4) -> Parts:
    """The parts of a conversion of a model, its mixers initialized."""
    student = build_student(model, student_config(saved(model, folder), state))
    teacher = Teacher(model)
    mixers: list[Any] = [layer.mixer for layer in student.backbone.layers]
    torch.manual_seed(0)
    teacher.states(
        random_blocks().batch(0, 8),
        lambda n, x, y: initialize(mixers[n], teacher.layers[n].self_attn, x, y),
    )
    return Parts(teacher, student, mixers)


def write_text(file: Path, documents: int = 40) -> Path:
    """A JSONL file of made-up documents, about 100 tokens each."""
    words = ("the", "sea", "a", "green", "name", "number", "is", "of", "seven", "and", "Anna")
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(words, 80).tolist()) for _ in range(documents)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file
