"""The tokenizer of a study: which one it is, loading it, and copying it into an export."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from transformers import AutoTokenizer

from optlayers.checkpoints.fetch import model_folder, nothing
from optlayers.config.study import StudyDefinition
from optlayers.errors import ExportError, ModelError

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


def tokenizer_folder(definition: StudyDefinition) -> Path:
    """The folder of the study's tokenizer: the one that it names, or else the first donor's.

    Where the vocabularies differ, it is the base's, if it has one: the embedding is the base's.
    """
    if definition.tokenizer:
        return model_folder(definition.resolve(definition.tokenizer), None, nothing)
    base, donor = (
        model_folder(definition.resolve(spec.model), spec.revision, nothing)
        for spec in (definition.base, definition.donor_specs[0])
    )
    differ = _vocabulary(base) != _vocabulary(donor)
    return base if differ and any(base.glob("tokenizer*")) else donor


def _vocabulary(folder: Path) -> object:
    """The vocabulary size in config.json; None if unreadable, which `Checkpoint` reports."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("vocab_size")
    except (OSError, ValueError, AttributeError):
        return None


def load_tokenizer(definition: StudyDefinition) -> object:
    """The study's tokenizer; raises `ModelError`."""
    folder = tokenizer_folder(definition)
    try:
        return AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=definition.trust_remote_code
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
        raise ModelError(
            f"tokenizer {folder}: cannot be loaded ({type(error).__name__}: {reason}); name one "
            "with `tokenizer:` in the study file"
        ) from None


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the files of a tokenizer; raises `ExportError` for a folder that holds none."""
    found = {path for pattern in PATTERNS for path in source.glob(pattern) if path.is_file()}
    if not found:
        raise ExportError(f"tokenizer {source}: holds no tokenizer files; nothing was left behind")
    for path in sorted(found):
        shutil.copyfile(path, folder / path.name)
    _name_tokenizer_class(source, folder / "tokenizer_config.json")


def _name_tokenizer_class(source: Path, target: Path) -> None:
    """Write the class that transformers chooses for the tokenizer in its source folder.

    The choice depends on the model type, which differs in the export; some classes would then
    split text into other tokens.
    """
    try:
        loaded = AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
        data = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else {}
    except Exception as error:
        # The files are copied unchanged, so loading them gives this error again.
        logger.debug("tokenizer %s: %s", source, error)
        return
    name = type(loaded).__name__
    # The name of that class which other programs know as well.
    name = "PreTrainedTokenizerFast" if name == "TokenizersBackend" else name
    if data.get("tokenizer_class") not in (name, f"{name}Fast", type(loaded).__name__):
        text = json.dumps({**data, "tokenizer_class": name}, indent=2)
        target.write_text(text + "\n", encoding="utf-8")
