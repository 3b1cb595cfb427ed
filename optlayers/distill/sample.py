"""Text sampled from a model itself, so that training needs no other text.

Chat models begin half of it with the bare prefix of a user's turn, so that they make up questions
and answer them (Xu et al., "Magpie", 2024); the rest begins with the first token of a document.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

LENGTH = 512  # tokens of a sampled document, with its prefix
# Memory of the keys and values of a batch: a share of what is free on a GPU, or bytes on a CPU.
GPU_SHARE, CPU_BYTES = 0.5, 500_000_000
MOST_SEQUENCES = 4_096

Progress = Callable[[int], None]


def prefixes(tokenizer: Any) -> list[list[int]]:
    """The token ids that sampled documents begin with, one after the other."""
    found = []
    marker = "OPTLAYERS"
    if getattr(tokenizer, "chat_template", None):
        turn = tokenizer.apply_chat_template(
            [{"role": "user", "content": marker}], tokenize=False, add_generation_prompt=False
        )
        found.append(tokenizer(turn.split(marker)[0], add_special_tokens=False)["input_ids"])
    # What separates documents in pretraining; chat models have another EOS.
    separator = tokenizer.get_vocab().get("<|endoftext|>")
    candidates = (separator, tokenizer.bos_token_id, tokenizer.eos_token_id, 0)
    found.append([next(token for token in candidates if token is not None)])
    return found


@torch.inference_mode()
def sample_text(
    model: Any,
    tokenizer: Any,
    out: Path,
    tokens: int,
    seed: int,
    progress: Progress = lambda tokens: None,
) -> None:
    """Write documents of `LENGTH` sampled tokens, `tokens` in all, as JSONL with `text`.

    Documents that the file has already are kept, so that a killed run continues.
    """
    config, device = model.config, model.device
    longest = min(LENGTH, int(getattr(config, "max_position_embeddings", LENGTH)))
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = 2 * config.num_key_value_heads * width * config.num_hidden_layers
    sequence_bytes = longest * keys * model.dtype.itemsize
    room = CPU_BYTES if device.type == "cpu" else GPU_SHARE * torch.cuda.mem_get_info(device)[0]
    batch = max(1, min(MOST_SEQUENCES, int(room // sequence_bytes)))
    starts = prefixes(tokenizer)
    rounds = -(-tokens // (batch * longest))
    batch = -(-tokens // (rounds * longest))
    done = _whole_lines(out) // batch if out.is_file() else 0
    with out.open("a", encoding="utf-8") as file:
        for number in range(done, rounds):
            torch.manual_seed(seed * 1_000_003 + number)
            start = starts[number % len(starts)]
            ids = torch.tensor([start] * batch, device=device)
            made = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=longest - len(start),
                # A conversation goes on after its first answer.
                eos_token_id=None,
                pad_token_id=0,
            )
            lines = [json.dumps({"text": text}) for text in tokenizer.batch_decode(made.tolist())]
            file.write("\n".join(lines) + "\n")
            file.flush()
            progress((number + 1) * batch * longest)


def _whole_lines(path: Path) -> int:
    """The number of complete lines of a file; an unfinished last one is cut off."""
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        path.write_bytes(whole)
    return whole.count(b"\n")
