"""Licences: what the folder of a model says of its own."""

from __future__ import annotations

from pathlib import Path

import yaml

TEXTS = ("LICENSE*", "LICENCE*", "USE_POLICY*", "NOTICE*")


def licence_of(folder: Path) -> str | None:
    """The licence that the model card in a folder names, or None where it names none."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    if not text.startswith("---"):
        return None
    try:
        data = yaml.safe_load(text.split("---", 2)[1])
    except yaml.YAMLError:
        return None
    if not isinstance(data, dict):
        return None
    named = data.get("license")
    if named in (None, "other"):
        named = data.get("license_name") or named
    return str(named) if named else None


def licence_texts(folder: Path, part: str) -> dict[str, str]:
    """The licence files of a folder, named after its part: `LICENSE` to `base-LICENSE`."""
    found = {}
    for pattern in TEXTS:
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and path.stat().st_size < 1_000_000:
                found[f"{part}-{path.name}"] = path.read_text(encoding="utf-8", errors="replace")
    return found
