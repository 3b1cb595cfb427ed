"""Text sampled from a model itself, so that training needs no other text.

Chat models begin half of it with the bare prefix of a user's turn, so that they make up questions
and answer them (Xu et al., "Magpie", 2024); the rest begins with the first token of a document.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import GenerationConfig

from optlayers.distill.training import Report, TrainingState

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

    Documents that the file has already are kept, so that a killed run continues. progress: called
    with the tokens of all documents so far, at the start too.
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
    done = _keep_rounds(out, batch) if out.is_file() else 0
    # That of the donor may end documents early, or punish repetition.
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0
    )
    progress(done * batch * longest)
    with out.open("a", encoding="utf-8") as file:
        for number in range(done, rounds):
            torch.manual_seed(seed * 1_000_003 + number)
            start = starts[number % len(starts)]
            ids = torch.tensor([start] * batch, device=device)
            # Without EOS: a conversation goes on after its first answer.
            made = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=longest - len(start)
            )
            lines = [json.dumps({"text": text}) for text in tokenizer.batch_decode(made.tolist())]
            file.write("\n".join(lines) + "\n")
            file.flush()
            progress((number + 1) * batch * longest)


def _keep_rounds(path: Path, batch: int) -> int:
    """The number of whole batches of lines in a file; what follows them is cut off."""
    lines = path.read_bytes().split(b"\n")[:-1]
    rounds = len(lines) // batch
    kept = b"".join(line + b"\n" for line in lines[: rounds * batch])
    if len(kept) < path.stat().st_size:
        path.write_bytes(kept)
    return rounds


def sample_part(
    model: Any, tokenizer: Any, folder: Path, tokens: int, seed: int, report: Report
) -> Path:
    """Sample a text with all processes, each its share of the tokens; returns the file of all.

    It is made once in a folder that all processes see.
    """
    process, text = PartialState(), folder / "text.jsonl"
    parts = [folder / f"text-{i}.jsonl" for i in range(process.num_processes)]
    if not text.is_file():
        number = process.process_index
        clock = _Clock(tokens, process.num_processes, report)
        progress = clock if process.is_main_process else lambda tokens: None
        share = -(-tokens // len(parts))
        sample_text(model, tokenizer, parts[number], share, seed * 1_009 + number, progress)
        process.wait_for_everyone()
        if process.is_main_process:
            part = folder / "text.part"
            part.write_bytes(b"".join(path.read_bytes() for path in parts))
            part.rename(text)
    process.wait_for_everyone()
    return text


class _Clock:
    """Reports sampled tokens of all processes, from those of this one."""

    def __init__(self, total: int, processes: int, report: Report) -> None:
        self.total, self.processes, self.report = total, processes, report
        self.started, self.first = time.monotonic(), -1

    def __call__(self, tokens: int) -> None:
        if self.first < 0:
            self.first = tokens  # of an earlier run
            return
        rate = self.processes * (tokens - self.first) / (time.monotonic() - self.started)
        tokens *= self.processes
        left = max(0, self.total - tokens)
        state = TrainingState(
            "text", min(1.0, tokens / self.total), tokens, float("nan"), rate, left / rate
        )
        self.report(state)
