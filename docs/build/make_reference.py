"""Writes `docs/reference.md`: every command, every field of a study file, the Python names.

All of it is read from the code; `tests/integration/test_docs.py` checks that the file is current:

    python -m docs.build.make_reference
"""

from __future__ import annotations

import enum
import inspect
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import optlayers
from optlayers.cli.app import command_group
from optlayers.config.study import StudyDefinition

OUT = Path(__file__).resolve().parents[2] / "docs" / "reference.md"

# What the code reads from the environment; a test looks for others.
ENVIRONMENT = {
    "OPTLAYERS_STORAGE": "database URL of the study, where `--storage` is not given",
    "OPTLAYERS_MODELS": (
        "folder of models that `fetch --source modelscope` brings, and of converted weights "
        "while they are used"
    ),
    "OPTLAYERS_ARTIFACTS": "folder of what is kept with a study beside its database",
    "OPTLAYERS_DEBUG": "any value: show tracebacks, as `--debug` does",
    "OPTLAYERS_CALLED_AS": "how messages name the command; `scripts/optlayers` sets it",
    "HF_TOKEN": "token for gated or private models of the Hugging Face hub",
    "HF_HOME": "where the Hugging Face client keeps what it fetches",
    "HF_HUB_OFFLINE": "1: ask no network, use what was fetched",
}

HEAD = """\
# Reference

Written by `docs/build/make_reference.py` from the code; a test checks that it is current.

`optlayers --version` prints the version, `--install-completion` sets up completion in the shell,
`--debug`, anywhere in a line, shows a traceback when something fails. Exit codes: 0 done, 1 a
failure while running, 2 bad input, 130 interrupted.
"""


def cell(text: str) -> str:
    """Text for one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def commands(group: Any, prefix: str = "optlayers") -> Iterator[tuple[str, Any]]:
    """Every command with its whole name, those of groups too."""
    for name, command in group.commands.items():
        if getattr(command, "hidden", False):
            continue
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def option_rows(command: Any) -> Iterator[str]:
    """A row for each option that is not hidden."""
    kinds = typing.get_type_hints(command.callback)
    for option in command.params:
        names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
        if option.param_type_name == "argument":
            names = f"`{option.metavar or option.name}`"
        if getattr(option, "hidden", False) or option.name == "help":
            continue
        kind = type_words(kinds[option.name]).removesuffix(" or null")
        kind = "" if kind == "true or false" else option.metavar or kind
        if option.required:
            default = "needed"
        elif option.default in (None, False, "") or callable(option.default):
            default = ""
        else:
            default = f"`{option.default}`"
        yield f"| {names} | {cell(kind)} | {default} | {cell(option.help or '')} |"


def command_parts(root: Any) -> Iterator[str]:
    """The part about each command."""
    for name, command in commands(root):
        yield f"### `{name}`\n\n{inspect.cleandoc(command.help or '')}\n"
        rows = list(option_rows(command))
        if rows:
            yield "\n".join(["| option | value | default | |", "|---|---|---|---|", *rows, ""])


def models_in(kind: Any) -> list[type[BaseModel]]:
    """The pydantic models that a type annotation holds."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [model for part in typing.get_args(kind) for model in models_in(part)]


def type_words(kind: Any) -> str:
    """A type annotation in the words of YAML."""
    origin = typing.get_origin(kind)
    parts = typing.get_args(kind)
    if origin is typing.Annotated:
        return type_words(parts[0])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_words(part) for part in parts)
    if origin is list:
        return f"list of {type_words(parts[0])}"
    if origin is dict:
        return f"{type_words(parts[0])} to {type_words(parts[1])}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return ", ".join(f"`{member.value}`" for member in kind)
    words = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}
    return words.get(kind, "null" if kind is type(None) else getattr(kind, "__name__", str(kind)))


def default_words(field: Any) -> str:
    """The default of a field, as YAML would have it."""
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its own defaults"
    if value is None or value is PydanticUndefined:
        return "null"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def rules(field: Any) -> str:
    """Bounds of a field, where it has some."""
    signs = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    found = [
        f"{word} {getattr(rule, sign)}"
        for rule in field.metadata
        for sign, word in signs.items()
        if getattr(rule, sign, None) is not None
    ]
    return ", ".join(found)


def field_parts(model: type[BaseModel], seen: list[type[BaseModel]]) -> Iterator[str]:
    """The part about one block of a study file, and about those in it."""
    seen.append(model)
    inner: list[type[BaseModel]] = []
    title = "The file" if model is StudyDefinition else model.__name__
    yield f"### {title}\n\n{inspect.cleandoc(model.__doc__ or '')}\n"
    rows = ["| field | value | default | |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        inner += models_in(field.annotation)
        bounds = rules(field)
        text = "; ".join(part for part in (field.description or "", bounds) if part)
        if not text and models_in(field.annotation):
            text = (models_in(field.annotation)[0].__doc__ or "").splitlines()[0]
        kind = type_words(field.annotation)
        row = [f"`{field.alias or name}`", kind, default_words(field), text]
        rows.append(f"| {' | '.join(cell(part) for part in row)} |")
    yield "\n".join([*rows, ""])
    for found in inner:
        if found not in seen:
            yield from field_parts(found, seen)


def python_rows() -> Iterator[str]:
    """A row for each public name of the package."""
    for name in sorted(set(optlayers.__all__) - {"__version__"}):
        value = getattr(optlayers, name)
        first = (inspect.getdoc(value) or "").splitlines()[0]
        kind = "class" if inspect.isclass(value) else "function"
        yield f"| `optlayers.{name}` | {kind} | {cell(first)} |"


def reference() -> str:
    """The whole text."""
    parts = [HEAD, "## Commands\n", *command_parts(command_group())]
    parts += ["## Study files\n", *field_parts(StudyDefinition, [])]
    rows = [f"| `{name}` | {cell(text)} |" for name, text in ENVIRONMENT.items()]
    parts += ["## Environment\n", "\n".join(["| variable | |", "|---|---|", *rows, ""])]
    parts += [
        "## Python\n",
        "\n".join(["| name | | |", "|---|---|---|", *python_rows(), ""]),
        "`help(optlayers.search_study)` and `help(optlayers.load_hybrid)` have examples.\n",
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    OUT.write_text(reference(), encoding="utf-8")
    print(OUT)
