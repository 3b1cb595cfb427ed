"""Training text: its sources, what is wrong with them, and the blocks that are made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from optlayers.distill.text import documents, read_blocks
from optlayers.errors import InputError
from tests.helpers.donors import LENGTH, chat_tokenizer, random_blocks, tokenizer, write_text

TURNS = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Anna"}]


def found(source: Path | str, reader: Any = None) -> list[str]:
    return list(documents(str(source), reader or tokenizer()))


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo ä\n")
    assert found(tmp_path / "a.txt") == ["one\n\ntwo ä\n"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_jsonl_holds_a_document_a_line(tmp_path: Path, name: str) -> None:
    rows = [{"text": "one\ntwo", "id": 3}, {"text": ""}, {"messages": TURNS}]
    (tmp_path / name).write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    assert found(tmp_path / name, chat_tokenizer()) == [
        "one\ntwo",
        "",
        "<user>Who?\n<assistant>Anna\n",
    ]


@pytest.mark.parametrize("rows", [{"text": "one"}, {"messages": TURNS}], ids=["text", "messages"])
def test_a_folder_is_a_dataset_of_transformers_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: dict[str, Any]
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(
            (json.dumps(rows) + "\n") * (2 if split == "train" else 1)
        )
    assert len(found(folder, chat_tokenizer())) == 2
    assert len(found(f"{folder}:default:test", chat_tokenizer())) == 1


def test_reading_ends_where_there_is_enough(tmp_path: Path) -> None:
    file = write_text(tmp_path / "a.jsonl", 3_000)
    few, all_ = (read_blocks(str(file), tokenizer(), LENGTH, most, 0) for most in (100, 10**9))
    assert len(few.tokens) < len(all_.tokens) / 2
    assert (few.tokens == all_.tokens[: len(few.tokens)]).all()


def test_documents_follow_each_other_with_eos_between(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in ("name: Anna", "name: Ben")))
    reader = tokenizer()
    ids = [reader(t, add_special_tokens=False)["input_ids"] for t in ("name: Anna", "name: Ben")]
    wanted = [*ids[0], reader.eos_token_id, *ids[1], reader.eos_token_id]
    blocks = read_blocks(str(file), reader, 2, 1_000, 0)
    assert blocks.tokens.flatten().tolist() == wanted[: len(wanted) // 2 * 2]


WRONG = {
    "missing.jsonl": (None, "there is no such file"),
    "missing.txt": (None, "neither a file nor a dataset that can be read"),
    "some-org/missing": (None, "neither a file nor a dataset that can be read"),
    "list.json": (b'[{"text": "a"},\n{"text": "b"}]', "give UTF-8 text or JSONL"),
    "other.jsonl": (b'{"content": "a"}\n', "other.jsonl:1: it has neither `text` nor `messages`"),
    "number.jsonl": (b'{"text": "a"}\n7\n', "number.jsonl:2: it has neither"),
    "empty_field.jsonl": (b'{"text": null}\n', "it has neither `text` nor `messages`"),
    "binary.txt": (b"\xff\xfe\x00", "give UTF-8 text or JSONL"),
    "chat.jsonl": (json.dumps({"messages": TURNS}).encode(), "the donor has none"),
    "short.txt": (b"a", "two blocks of 32 are the least"),
    "empty.jsonl": (b"", "0 tokens, and two blocks of 32 are the least"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_source_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    data, words = WRONG[name]
    monkeypatch.chdir(tmp_path)
    if data is not None:
        Path(name).write_bytes(data)
    with pytest.raises(InputError, match="--text ") as raised:
        read_blocks(name, tokenizer(), LENGTH, 1_000, 0)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_messages_that_the_template_refuses_are_one_line(tmp_path: Path) -> None:
    reader = chat_tokenizer()
    reader.chat_template = "{{ raise_exception('roles must alternate') }}"
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": TURNS}))
    with pytest.raises(InputError, match=r"a.jsonl:1: the chat template refuses .* must alternate"):
        found(tmp_path / "a.jsonl", reader)


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("step", [0, 3, 8])
def test_a_batch_of_several_processes_is_the_batch_of_one(step: int, processes: int) -> None:
    blocks = random_blocks()
    whole = blocks.batch(step, 10)
    parts = [blocks.batch(step, 10, (i, processes)) for i in range(processes)]
    for i, part in enumerate(parts):
        assert torch.equal(part, whole[i::processes])
    assert sum(map(len, parts)) == 10


def test_an_epoch_has_every_block_once_and_the_next_another_order() -> None:
    blocks = random_blocks(n=40, held=4)
    steps = [blocks.batch(step, 9) for step in range(8)]  # 36 blocks an epoch
    train = {tuple(row) for row in blocks.tokens[:36].tolist()}
    first, second = torch.cat(steps[:4]), torch.cat(steps[4:])
    for epoch in (first, second):
        assert {tuple(row) for row in epoch.tolist()} == train
    assert not torch.equal(first, second)


def test_held_out_blocks_are_never_trained_on(tmp_path: Path) -> None:
    blocks = read_blocks(str(write_text(tmp_path / "a.jsonl")), tokenizer(), LENGTH, 10**9, 0)
    held = torch.cat(list(blocks.held_out(3)))
    assert len(held) == blocks.n_held == max(1, round(0.01 * len(blocks.tokens)))
    assert (held.numpy() == blocks.tokens[-len(held) :]).all()
    assert blocks.n_train + blocks.n_held == len(blocks.tokens)
