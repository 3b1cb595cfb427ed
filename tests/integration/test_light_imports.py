"""What a new process has loaded after an import or a light command."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "lm_eval", "datasets"}


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
    assert not loaded & HEAVY


def test_optlayers_itself_loads_no_library() -> None:
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
    assert not loaded_after(code) & HEAVY
