"""Text sampled from a model: its length, its beginnings, and going on with a cut file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optlayers.distill import sample
from optlayers.distill.sample import prefixes, sample_part, sample_text
from optlayers.distill.training import TrainingState
from tests.helpers.donors import chat_tokenizer, tiny_model, tokenizer

TOKENS = 6 * 64


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents of 64 tokens, two at a time."""
    monkeypatch.setattr(sample, "LENGTH", 64)
    monkeypatch.setattr(sample, "MOST_SEQUENCES", 2)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model()


def test_documents_have_their_length_whatever_ends_one(tmp_path: Path, model: Any) -> None:
    """The EOS of the donor does not end them, and its settings of generation do not count."""
    model.generation_config.update(
        eos_token_id=list(range(1, 512)), repetition_penalty=9.0, top_k=1, max_new_tokens=3
    )
    sample_text(model, tokenizer(), tmp_path / "a.jsonl", TOKENS, 0)
    texts = [json.loads(line)["text"] for line in (tmp_path / "a.jsonl").open()]
    assert len(texts) == 6
    assert len(set(texts)) == 6
    lengths = [len(tokenizer()(text, add_special_tokens=False)["input_ids"]) for text in texts]
    assert min(lengths) > 32  # other tokens may spell the same text


def test_half_of_a_chat_models_documents_begin_with_a_users_turn(
    tmp_path: Path, model: Any
) -> None:
    sample_text(model, chat_tokenizer(), tmp_path / "a.jsonl", TOKENS, 0)
    texts = [json.loads(line)["text"] for line in (tmp_path / "a.jsonl").open()]
    assert [text.startswith("<user>") for text in texts] == [True, True, False, False, True, True]


def test_a_plain_model_has_one_beginning() -> None:
    assert prefixes(tokenizer()) == [[tokenizer().bos_token_id or 0]]


@pytest.mark.parametrize("kept", [0, 1, 2, 3, 5])
def test_a_cut_file_is_continued_to_the_same_text(tmp_path: Path, model: Any, kept: int) -> None:
    """Cut in the middle of a document, after so many."""
    whole, cut = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    sample_text(model, tokenizer(), whole, TOKENS, 3)
    lines = whole.read_bytes().splitlines(keepends=True)
    cut.write_bytes(b"".join(lines[:kept]) + lines[kept][:9])
    done: list[int] = []
    sample_text(model, tokenizer(), cut, TOKENS, 3, done.append)
    assert cut.read_bytes() == whole.read_bytes()
    assert done == [tokens for tokens in (0, 128, 256, 384) if tokens >= kept // 2 * 128]


def test_another_seed_is_another_text(tmp_path: Path, model: Any) -> None:
    for seed in (0, 1):
        sample_text(model, tokenizer(), tmp_path / f"{seed}.jsonl", TOKENS, seed)
    assert (tmp_path / "0.jsonl").read_bytes() != (tmp_path / "1.jsonl").read_bytes()


def test_the_text_is_made_once_of_the_parts_of_these_processes(tmp_path: Path, model: Any) -> None:
    # Left by a run of two processes, which was killed.
    (tmp_path / "text-1.jsonl").write_text('{"te')
    seen: list[TrainingState] = []
    text = sample_part(model, tokenizer(), tmp_path, TOKENS, 0, seen.append)
    assert len([json.loads(line) for line in text.open()]) == 6
    assert [(s.stage, s.tokens) for s in seen] == [("text", n) for n in (128, 256, 384)]
    assert seen[-1].fraction == 1.0
    assert seen[-1].seconds_left == 0.0
    assert sample_part(None, None, tmp_path, TOKENS, 0, seen.append) == text
