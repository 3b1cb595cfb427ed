"""Who may import whom: the rules of the house, read from the source and from a running process."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import optlayers

PACKAGE = Path(optlayers.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("torch", "transformers", "lm_eval", "datasets")
# The files that travel with an exported checkpoint.
STANDALONE = ("ssd.py", "generation.py", "llamba.py", "parts.py", "families.py", "hybrid.py")


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """The full names of all modules that a file imports, also inside functions."""
    here = path.relative_to(PACKAGE.parent).with_suffix("").parts
    found: set[str] = set()
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []  # what only a type checker reads is no import
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = here[: len(here) - node.level] if node.level else ()
            module = ".".join([*start, *([node.module] if node.module else [])])
            found.update(f"{module}.{alias.name}" for alias in node.names)
            found.add(module)
    return frozenset(found)


def room(path: Path) -> str:
    """`models` for optlayers/models/ssd.py, `worker` for optlayers/workers/worker.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def reached(path: Path) -> set[str]:
    """All libraries that importing a file may bring in, through optlayers' own files too."""
    todo, seen, found = [path], {path}, set()
    while todo:
        for name in imported(todo.pop()):
            parts = name.split(".")
            if parts[0] != "optlayers":
                found.add(parts[0])
                continue
            for n in range(1, len(parts) + 1):
                base = PACKAGE.joinpath(*parts[1:n])
                for file in (base / "__init__.py", base.with_suffix(".py")):
                    if file.is_file() and file not in seen:
                        seen.add(file)
                        todo.append(file)
    return found


def importers(library: str) -> set[str]:
    """The files, relative to the package, that import a library."""
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        if any(name.split(".")[0] == library for name in imported(path))
    }


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 30
    assert "torch" in imported(PACKAGE / "models" / "ssd.py")
    assert "optlayers.models.ssd" in imported(PACKAGE / "models" / "llamba.py")
    assert "optlayers.config.study" in imported(PACKAGE / "cli" / "studies.py")


def test_only_the_tasks_import_lm_eval() -> None:
    assert importers("lm_eval") == {"evaluation/tasks.py"}


def test_only_the_command_line_imports_typer() -> None:
    for library in ("typer", "click", "rich"):
        assert all(file.startswith("cli/") for file in importers(library)), library
    assert importers("typer")


@pytest.mark.parametrize(
    ("rooms", "libraries"),
    [
        (["search"], ["torch", "transformers", "lm_eval", "safetensors"]),
        (["models", "checkpoints"], ["optuna", "sqlalchemy"]),
        (["evaluation"], ["optuna", "sqlalchemy"]),
        (
            ["autoclasses", "errors", "graft", "layerset", "masking", "study", "studyfile"],
            ["torch", "transformers", "optuna", "numpy"],
        ),
        (
            [
                "storage",
                "sqlitefile",
                "patience",
                "rows",
                "liveness",
                "leaderboard",
                "claims",
                "worker",
            ],
            ["torch", "transformers"],
        ),
    ],
)
def test_a_room_keeps_out_what_it_must_not_know(rooms: list[str], libraries: list[str]) -> None:
    for library in libraries:
        inside = {file for file in importers(library) if room(PACKAGE / file) in rooms}
        assert not inside, library


@pytest.mark.parametrize(
    ("name", "libraries"),
    [
        ("search", ["torch", "transformers", "lm_eval"]),
        ("models", ["optuna", "lm_eval", "typer"]),
        ("checkpoints", ["optuna", "lm_eval", "typer"]),
    ],
)
def test_a_room_does_not_reach_what_it_must_not_know(name: str, libraries: list[str]) -> None:
    for path in (PACKAGE / name).glob("*.py"):
        assert not reached(path) & set(libraries), path.name
    assert "optuna" in reached(PACKAGE / "search" / "sampler.py")


# From the ground up: a room may import its own level's modules and those of the levels below.
LEVELS = [
    {"autoclasses", "errors", "interrupts", "masking", "metrics", "__init__"},
    {"layerset", "liveness", "patience", "sqlitefile", "studyfile", "transactions"},
    {"graft"},
    {"studyparts"},
    {"study"},
    {"models", "checkpoints", "search"},
    {"cost", "evaluation", "rows", "storage"},
    {"asking", "claims", "holdout", "leaderboard", "proxy", "turns", "worklog"},
    {"evidence"},
    {"report", "worker"},
    {"api"},
    {"cli"},
    {"__main__"},
]


def level_of(name: str) -> int:
    for level, names in enumerate(LEVELS):
        if name in names:
            return level
    raise AssertionError(f"optlayers.{name} has no level yet; give it one in LEVELS")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_go_downwards(path: Path) -> None:
    mine = level_of(room(path))
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "optlayers" or len(parts) < 2 or not known(parts[1]):
            continue
        assert level_of(parts[1]) <= mine, f"{path.name} imports {name}"


def known(name: str) -> bool:
    """Whether optlayers has a module of that name (`optlayers.__version__` is none)."""
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


@pytest.mark.parametrize("file", STANDALONE)
def test_what_travels_with_a_checkpoint_needs_nothing_that_stays(file: str) -> None:
    plain = {"__future__", "collections", "dataclasses", "math", "typing"}
    allowed = {"torch", "transformers", *plain}
    for name in imported(PACKAGE / "models" / file):
        parts = name.split(".")
        if parts[0] == "optlayers":
            assert parts[1] == "models"
            assert len(parts) == 2 or f"{parts[2]}.py" in STANDALONE, name
        else:
            assert parts[0] in allowed, name


def loaded_after(code: str) -> set[str]:
    """The top-level modules that are loaded after running some lines in a new process."""
    tail = "\nimport sys\nprint('LOADED', *{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code + tail],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_the_search_loads_nothing_heavy() -> None:
    loaded = loaded_after("import optlayers.search")
    assert "optuna" in loaded
    assert not loaded & set(HEAVY)


def test_optlayers_itself_loads_nothing_of_others() -> None:
    plain = loaded_after("")
    added = {name for name in loaded_after("import optlayers") - plain if name != "optlayers"}
    assert not added - sys.stdlib_module_names


@pytest.mark.parametrize("arguments", [["--version"], ["studies"]])
def test_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom optlayers.cli import main\n"
        f"sys.argv[1:] = {arguments!r}\ntry:\n    main()\nexcept SystemExit as done:\n"
        "    assert not done.code, done.code"
    )
    assert not loaded_after(code) & set(HEAVY)
