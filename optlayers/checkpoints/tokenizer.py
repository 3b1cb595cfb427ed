"""The tokenizer of a study: which one it is, loading and checking it, copying it into an export."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.dynamic_module_utils import get_relative_import_files

from optlayers.checkpoints.fetch import model_folder, nothing
from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import Checkpoint
from optlayers.config.study import StudyDefinition
from optlayers.errors import ExportError, ModelError, reason
from optlayers.models.families import embedding_rows

logger = logging.getLogger(__name__)

PATTERNS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "vocab.json",
    "merges.txt",
    "tekken.json",
)
SETTINGS = "tokenizer_config.json"
# Gives the folder of a model and revision.
Find = Callable[[str, str | None], Path]
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def _fetched(where: str, revision: str | None) -> Path:
    return model_folder(where, revision, nothing)


def tokenizer_folder(definition: StudyDefinition, find: Find = _fetched) -> Path:
    """The folder of the study's tokenizer: the one that it names, or else the first donor's.

    Where the vocabularies differ, it is the base's, if it has one: the embedding is the base's.
    find: gives the folder of a model and revision.
    """
    if definition.tokenizer:
        return find(definition.resolve(definition.tokenizer), None)
    base, donor = (
        find(definition.resolve(spec.model), spec.revision)
        for spec in (definition.base, definition.donor_specs[0])
    )
    differ = _vocabulary(base) != _vocabulary(donor)
    return base if differ and has_tokenizer(base) else donor


def tokenizer_owner(definition: StudyDefinition) -> str:
    """Whose the study's tokenizer is: `base`, `donor`, a donor's name, or that of another model."""
    if definition.tokenizer:
        where = Path(definition.resolve(definition.tokenizer))
        return where.name if where.is_dir() else definition.tokenizer
    base = definition.base
    if tokenizer_folder(definition) == _fetched(definition.resolve(base.model), base.revision):
        return "base"
    return "donor" if definition.donors is None else f"donor {definition.donor_names[0]}"


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    return any(folder.glob("tokenizer*"))


def _vocabulary(folder: Path) -> object:
    """The vocabulary size in config.json; None if unreadable, which `Checkpoint` reports."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("vocab_size")
    except (OSError, ValueError, AttributeError):
        return None


def load_tokenizer(
    definition: StudyDefinition, base: Checkpoint | None = None, find: Find = _fetched
) -> Any:
    """The study's tokenizer; raises `ModelError` where it cannot be loaded.

    base: also raise where it does not fit this model or the tasks. find: see `tokenizer_folder`.
    """
    folder = tokenizer_folder(definition, find)
    tokenizer = load_from(folder, definition.trust_remote_code)
    if base is None:
        return tokenizer
    # Ids may have holes, so the number of tokens says little.
    highest, rows = max(tokenizer.get_vocab().values(), default=0), embedding_rows(base.config)
    if highest >= rows:
        raise ModelError(
            f"the tokenizer has ids up to {highest} and base {base.name} embeds {rows} tokens; "
            "choose models of one vocabulary, or name a fitting tokenizer"
        )
    endless = tokenizer.bos_token_id is None and tokenizer.eos_token_id is None
    if endless and any(task.text is None for task in definition.tasks):
        raise ModelError(
            f"tokenizer {folder}: it has neither a BOS nor an EOS token, and lm-eval needs one; "
            f"set eos_token in its {SETTINGS}, or name another with `tokenizer:`"
        )
    return tokenizer


def load_from(folder: Path, trust: bool) -> Any:
    """The tokenizer in a folder; trust: run its own code. Raises `ModelError`."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust)
        tokenizer("a")  # some settings fail only here
        return tokenizer
    except Exception as error:
        raise ModelError(
            f"tokenizer {folder}: cannot be loaded ({reason(error)}); name one with `tokenizer:` "
            "in the study file"
        ) from None


def tokenizer_note(
    definition: StudyDefinition, base: Checkpoint, tokenizer: Any, find: Find = _fetched
) -> str | None:
    """How the study's tokenizer differs from that of the base, whose embedding it feeds."""
    folder = tokenizer_folder(definition, find)
    if folder.resolve() == base.folder.resolve() or not has_tokenizer(base.folder):
        return None
    try:
        own = load_from(base.folder, definition.trust_remote_code).get_vocab()
    except ModelError:
        return None  # it is not used
    mine = tokenizer.get_vocab()
    other = {token for token, number in mine.items() if own.get(token) != number}
    if not other:
        return None
    return (
        f"the tokenizer in {folder} gives {len(other)} of its {len(mine)} tokens (such as "
        f"{min(other)!r}) other ids than that of base {base.name}, whose embedding is used; if the "
        f"models do not share a vocabulary, set `tokenizer: {definition.base.model}`"
    )


def special_tokens(parents: Parents, folder: Path, trust: bool = False) -> dict[str, Any]:
    """The ids of BOS, EOS and padding of a tokenizer.

    They are those in the `config.json` of the model that it belongs to, or else its own.
    """
    owner = next((p for p in parents.all if p.folder.resolve() == folder.resolve()), None)
    named = owner.config_dict if owner else {}
    tokenizer: Any = None
    found = {}
    for name in SPECIAL:
        value = named.get(name)
        if value is None:
            tokenizer = tokenizer or load_from(folder, trust)
            value = getattr(tokenizer, name)
        found[name] = value
    return {name: value for name, value in found.items() if value is not None}


def copy_tokenizer(source: Path, folder: Path, trust: bool = False) -> None:
    """Copy a tokenizer with its code if that is trusted.

    Raises `ModelError` for one that cannot be loaded, `ExportError` for code that cannot be copied.
    """
    found = {path for pattern in PATTERNS for path in source.glob(pattern) if path.is_file()}
    tokenizer = load_from(source, trust)
    named = getattr(tokenizer, "vocab_files_names", {}).values()
    found |= {source / name for name in named if (source / name).is_file()}
    modules = code_of(source) if trust else set()
    for path in sorted(found | modules):
        target = folder / path.relative_to(source)
        if path in modules and target.exists():
            raise ExportError(
                f"tokenizer {source}: its {path.name} has the name of a file of the hybrid; rename "
                "it there, and in auto_map"
            )
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    _name_tokenizer_class(tokenizer, folder / SETTINGS, trust)


def code_of(folder: Path) -> set[Path]:
    """The modules that the `auto_map` of a tokenizer names, and what they import beside them."""
    settings = _settings(folder / SETTINGS)
    named = settings.get("auto_map") or {}
    classes = named.get("AutoTokenizer") if isinstance(named, dict) else named
    classes = [classes] if isinstance(classes, str) else classes or []
    files = set()
    for name in filter(None, classes):
        path = folder / f"{name.partition('.')[0]}.py"
        if "--" not in name and path.is_file():  # else it is in another repository
            files |= {path, *(Path(file) for file in get_relative_import_files(path))}
    return files


def _settings(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # transformers, which has loaded it, needs none
    return data if isinstance(data, dict) else {}


def _name_tokenizer_class(tokenizer: Any, target: Path, trust: bool) -> None:
    """Write the class that transformers chose for the tokenizer in its source folder.

    The choice depends on the model type, which differs in the export; some classes would then
    split text into other tokens.
    """
    data = _settings(target)
    if not trust:
        # An export is loaded with its code, which the study did not use.
        data.pop("auto_map", None)
    name = type(tokenizer).__name__
    if trust and "auto_map" in data:
        return
    # The name of that class which other programs know as well.
    known = "PreTrainedTokenizerFast" if name == "TokenizersBackend" else name
    if data.get("tokenizer_class") not in (known, f"{known}Fast", name):
        data["tokenizer_class"] = known
    if data != _settings(target):
        target.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
