"""optlayers finds which few layers of a donor model to put into a base model."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from optlayers.api import SearchResult, load_hybrid, load_tokenizer, search_study
    from optlayers.config.study import StudyDefinition, load_study, parse_study
    from optlayers.errors import InputError, OptlayersError, RunError
    from optlayers.layerset import LayerSet

# The module of each public name. Imported on first use, so that the command line and
# `optlayers.search` do not load torch.
_PUBLIC = {
    "InputError": "errors",
    "LayerSet": "layerset",
    "OptlayersError": "errors",
    "RunError": "errors",
    "SearchResult": "api",
    "StudyDefinition": "config.study",
    "load_hybrid": "api",
    "load_study": "config.study",
    "load_tokenizer": "api",
    "parse_study": "config.study",
    "search_study": "api",
}

__all__ = [
    "InputError",
    "LayerSet",
    "OptlayersError",
    "RunError",
    "SearchResult",
    "StudyDefinition",
    "__version__",
    "load_hybrid",
    "load_study",
    "load_tokenizer",
    "parse_study",
    "search_study",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'optlayers' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"optlayers.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
