"""The rules of the package's structure, read from its source."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import optlayers
from tests.helpers.paths import ROOT as CHECKOUT

PACKAGE = Path(optlayers.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [path.relative_to(PACKAGE).as_posix() for path in FILES]

# The files of the root, and what each imports.
ROOT = {
    "__init__": [],
    "__main__": ["cli"],
    "api": ["workers", "report"],
    "errors": [],
    "layerset": ["errors"],
}
# A row of the table in ARCHITECTURE.md: the room, what it is for, and what it imports.
ROW = re.compile(r"^\| `(\w+)/` \|[^|]*\|([^|]*)\|$", re.MULTILINE)
# The files that travel with an exported checkpoint.
STANDALONE = ("ssd.py", "generation.py", "llamba.py", "parts.py", "families.py", "hybrid.py")
# Libraries that a room must not load, whatever it imports of the others.
FORBIDDEN = {
    "config": {"torch", "transformers", "optuna", "numpy"},
    "search": {"torch", "transformers", "lm_eval", "safetensors"},
    "models": {"optuna", "sqlalchemy", "lm_eval", "typer"},
    "checkpoints": {"optuna", "sqlalchemy", "lm_eval", "typer"},
    "inference": {"optuna", "sqlalchemy", "lm_eval", "typer"},
    "evaluation": {"optuna", "sqlalchemy", "typer"},
    "storage": {"torch", "transformers", "lm_eval"},
    "results": {"torch", "transformers", "lm_eval"},
    "report": {"torch", "transformers", "lm_eval"},
}
MOST_LINES = 350


def read_rooms() -> dict[str, list[str]]:
    """What each room imports, by the table; it may import what these import too."""
    rows = ROW.findall((CHECKOUT / "ARCHITECTURE.md").read_text("utf-8"))
    found = {room: imports.replace(",", " ").split() for room, imports in rows}
    everything = [*found, "api"]
    return ROOT | {
        room: [other for other in everything if other != room] if imports == ["all"] else imports
        for room, imports in found.items()
    }


ROOMS = read_rooms()


@functools.cache
def tree_of(name: str) -> ast.Module:
    """The syntax tree of a file, without the imports that only a type checker reads."""
    tree = ast.parse((PACKAGE / name).read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    return tree


@functools.cache
def imported(name: str) -> frozenset[str]:
    """The full names of everything that a file imports, also inside functions."""
    package = ("optlayers", *Path(name).parent.parts)
    found: set[str] = set()
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*start, *([node.module] if node.module else [])])
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def room_of(name: str) -> str:
    """`models` for models/ssd.py, `api` for api.py."""
    return Path(name).parts[0].removesuffix(".py")


def libraries(name: str) -> set[str]:
    """The libraries that a file imports."""
    return {full.partition(".")[0] for full in imported(name)} - {"optlayers"}


def rooms(name: str) -> set[str]:
    """The rooms that a file imports (`optlayers.__version__` is in none)."""
    parts = [full.split(".") for full in imported(name)]
    found = {part[1] for part in parts if part[0] == "optlayers" and len(part) > 1}
    return found - {room_of(name), "__version__"}


def importers(library: str) -> set[str]:
    return {name for name in NAMES if library in libraries(name)}


def closure(room: str) -> set[str]:
    """The rooms that a room may import."""
    found: set[str] = set()
    for other in ROOMS[room]:
        found |= {other} | closure(other)
    return found


def reached(name: str) -> set[str]:
    """The libraries that importing a file may load, through other files of the package too."""
    todo, seen, found = [name], {name}, set()
    while todo:
        current = todo.pop()
        found |= libraries(current)
        for full in imported(current):
            parts = full.split(".")
            for n in range(2, len(parts) + 1 if parts[0] == "optlayers" else 0):
                base = "/".join(parts[1:n])
                for file in (f"{base}.py", f"{base}/__init__.py"):
                    if file in NAMES and file not in seen:
                        seen.add(file)
                        todo.append(file)
    return found


def private_optuna(name: str) -> Iterator[str]:
    """The private names of Optuna that a file uses."""
    for full in imported(name):
        if full.startswith("optuna.") and "._" in full:
            yield full
    attributes = {"_storage", "_study_id", "_trial_id", "_backend"}
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            own = text == f"self.{node.attr}"
            if (node.attr in attributes and not own) or (
                text.startswith("optuna.") and node.attr.startswith("_")
            ):
                yield text


def test_the_files_are_read() -> None:
    assert len(FILES) > 60
    assert "torch" in libraries("models/ssd.py")
    assert "optlayers.models.ssd.ssd" in imported("models/llamba.py")
    assert rooms("trials/ranking.py") == {"config", "layerset"}
    assert list(private_optuna("storage/fast.py"))


def test_the_root_has_five_files() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(ROOT)


def test_each_folder_has_a_row_in_the_table() -> None:
    folders = {room_of(name) for name in NAMES} - set(ROOT)
    assert folders <= set(ROOMS), "add a row to the table of rooms in ARCHITECTURE.md"
    assert {other for imports in ROOMS.values() for other in imports} <= set(ROOMS)


def test_the_rooms_have_an_order() -> None:
    list(graphlib.TopologicalSorter(ROOMS).static_order())


@pytest.mark.parametrize("name", NAMES)
def test_a_room_imports_only_what_its_row_allows(name: str) -> None:
    room = room_of(name)
    allowed = closure(room) | {"errors", "layerset"}
    assert not rooms(name) - allowed


@pytest.mark.parametrize("name", [name for name in NAMES if room_of(name) in FORBIDDEN])
def test_a_room_does_not_reach_what_it_must_not_load(name: str) -> None:
    assert not reached(name) & FORBIDDEN[room_of(name)]


def test_workers_import_no_model_library() -> None:
    users = importers("torch") | importers("transformers") | importers("lm_eval")
    assert "workers" not in {room_of(name) for name in users}


def test_one_module_imports_lm_eval() -> None:
    assert importers("lm_eval") == {"evaluation/tasks.py"}


def test_only_the_command_line_imports_typer() -> None:
    users = importers("typer") | importers("click") | importers("rich")
    assert {room_of(name) for name in users} == {"cli"}


def test_only_storage_touches_private_names_of_optuna() -> None:
    users = {name for name in NAMES if any(private_optuna(name))}
    assert {room_of(name) for name in users} == {"storage"}


@pytest.mark.parametrize("file", STANDALONE)
def test_what_travels_with_a_checkpoint_imports_nothing_else(file: str) -> None:
    plain = {"__future__", "collections", "dataclasses", "math", "typing"}
    assert libraries(f"models/{file}") <= {"torch", "transformers", *plain}
    for full in imported(f"models/{file}"):
        parts = full.split(".")
        if parts[0] == "optlayers":
            assert parts[1] == "models"
            assert f"{parts[2]}.py" in STANDALONE


def test_no_two_classes_share_a_name() -> None:
    classes = Counter(
        node.name
        for name in NAMES
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.ClassDef)
    )
    assert {name for name, count in classes.items() if count > 1} == set()


def test_no_module_is_too_long() -> None:
    lines = {name: (PACKAGE / name).read_text("utf-8").count("\n") for name in NAMES}
    assert {name for name, count in lines.items() if count > MOST_LINES} == set()


def test_importing_optlayers_alone_loads_neither_torch_nor_transformers() -> None:
    assert not reached("__init__.py") & {"torch", "transformers"}
