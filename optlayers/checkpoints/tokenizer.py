"""The tokenizer of an exported checkpoint: the donor's, so that it splits text as it does there."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from transformers import AutoTokenizer

from optlayers.errors import ExportError

logger = logging.getLogger(__name__)

PATTERNS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*.jinja",
    "vocab.json",
    "merges.txt",
)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the tokenizer's files; raises `ExportError` for a folder that holds none."""
    found = {path for pattern in PATTERNS for path in source.glob(pattern) if path.is_file()}
    if not found:
        raise ExportError(f"tokenizer {source}: holds no tokenizer files; nothing was left behind")
    for path in sorted(found):
        shutil.copyfile(path, folder / path.name)
    _name_tokenizer_class(source, folder / "tokenizer_config.json")


def _name_tokenizer_class(source: Path, target: Path) -> None:
    """Write down the class that transformers gives a tokenizer where it comes from.

    It takes the model type into account, which is another one here, and then some classes split
    text into other tokens.
    """
    try:
        loaded = AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
        data = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else {}
    except Exception as error:
        # Its files are as they were, and whoever loads the tokenizer is told the same.
        logger.debug("tokenizer %s: %s", source, error)
        return
    name = type(loaded).__name__
    # The name of that class which other programs know as well.
    name = "PreTrainedTokenizerFast" if name == "TokenizersBackend" else name
    if data.get("tokenizer_class") not in (name, f"{name}Fast", type(loaded).__name__):
        text = json.dumps({**data, "tokenizer_class": name}, indent=2)
        target.write_text(text + "\n", encoding="utf-8")
