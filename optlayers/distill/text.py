"""Training text as blocks of tokens: from a file, from a dataset of the hub, or from sampled text.

Shapes: n blocks of `length` tokens.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from optlayers.errors import InputError, reason

HELD_OUT = 0.01  # share of the blocks that no step sees
# Documents that are tokenized in one call.
DOCUMENTS = 1_000


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, blocks: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(blocks)


@dataclass(frozen=True)
class Blocks:
    """Token ids [n, length], of which the last `n_held` blocks are held out."""

    tokens: NDArray[np.int32]
    n_held: int
    seed: int = 0

    @property
    def length(self) -> int:
        """Tokens per block."""
        return int(self.tokens.shape[1])

    @property
    def n_train(self) -> int:
        """Blocks to train on."""
        return len(self.tokens) - self.n_held

    def batch(self, step: int, size: int, part: tuple[int, int] = (0, 1)) -> torch.Tensor:
        """The blocks [about size / parts, length] of one step, in a new random order every epoch.

        part: (number, of how many), for processes that share a batch of `size` blocks.
        """
        n = self.n_train
        places = range(step * size, (step + 1) * size)[part[0] :: part[1]]
        rows = [int(_order(self.seed, place // n, n)[place % n]) for place in places]
        return torch.from_numpy(self.tokens[rows].astype(np.int64))

    def held_out(self, size: int) -> Iterator[torch.Tensor]:
        """The held-out blocks, in batches [size or fewer, length]."""
        held = self.tokens[self.n_train :].astype(np.int64)
        for start in range(0, len(held), size):
            yield torch.from_numpy(held[start : start + size])


def read_blocks(source: str, tokenizer: Any, length: int, most: int, seed: int) -> Blocks:
    """Tokenize a source and cut it into blocks; documents follow each other with EOS between.

    source: see `documents`. most: stop reading after so many tokens. Raises `InputError` for a
    source that cannot be read, or holds fewer than two blocks.
    """
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    parts: list[NDArray[np.int32]] = []
    waiting: list[str] = []
    total = 0

    def flush() -> int:
        if not waiting:
            return 0
        # Not verbose: it would warn of documents that are longer than the model's context.
        encoded = tokenizer(waiting, add_special_tokens=False, verbose=False)["input_ids"]
        added = [np.array([*ids, *end], dtype=np.int32) for ids in encoded]
        parts.extend(added)
        waiting.clear()
        return sum(map(len, added))

    for text in documents(source, tokenizer):
        waiting.append(text)
        if len(waiting) == DOCUMENTS:
            total += flush()
            if total >= most:
                break
    total += flush()
    n = total // length
    if n < 2:
        raise InputError(
            f"--text {source}: {total} tokens, and two blocks of {length} are the least; give more "
            "text, or a smaller --length"
        )
    tokens = np.concatenate(parts)[: n * length].reshape(n, length)
    return Blocks(tokens, max(1, min(n // 2, round(HELD_OUT * n))), seed)


def documents(source: str, tokenizer: Any) -> Iterator[str]:
    """The documents of a text file, a JSONL file, or a dataset of the hub.

    A text file is one document. JSONL and datasets hold `text`, or `messages` for the chat
    template. A dataset is named REPO, REPO:CONFIG or REPO:CONFIG:SPLIT. Raises `InputError`.
    """
    path = Path(source)
    try:
        if path.suffix in (".jsonl", ".json"):
            with path.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        yield _document(json.loads(line), tokenizer, f"{source}:{number}")
        elif path.is_file():
            yield path.read_text(encoding="utf-8")
        else:
            for number, row in enumerate(_dataset(source), start=1):
                yield _document(row, tokenizer, f"{source}, row {number}")
    except FileNotFoundError:
        raise InputError(f"--text {source}: there is no such file; correct the path") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"--text {source}: {reason(error)}; give UTF-8 text or JSONL") from None


def _document(row: Any, tokenizer: Any, where: str) -> str:
    if isinstance(row, dict) and isinstance(row.get("text"), str):
        text: str = row["text"]
        return text
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
        raise InputError(f"--text {where}: it has neither `text` nor `messages`; name the field so")
    if getattr(tokenizer, "chat_template", None) is None:
        raise InputError(f"--text {where}: `messages` need a chat template; the donor has none")
    try:
        return str(tokenizer.apply_chat_template(row["messages"], tokenize=False))
    except Exception as error:  # templates raise errors of their own
        raise InputError(
            f"--text {where}: the chat template refuses its `messages` ({reason(error)}); correct "
            "or remove them"
        ) from None


def _dataset(source: str) -> Iterator[Any]:
    """The rows of a dataset of the hub, streamed."""
    from datasets import load_dataset

    name, _, rest = source.partition(":")
    config, _, split = rest.partition(":")
    try:
        yield from load_dataset(name, config or None, split=split or "train", streaming=True)
    except Exception as error:
        raise InputError(
            f"--text {source}: neither a file nor a dataset that can be read "
            f"({reason(error)}); give a file, REPO:CONFIG:SPLIT, or sample"
        ) from None
