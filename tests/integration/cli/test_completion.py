"""Completion in bash and zsh, called as the shells call it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = str(Path(sys.executable).parent)
ENVIRONMENT = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}


def test_bash_completes_commands_and_options() -> None:
    # As readline does it: the words so far, and the place of the cursor.
    script = """
    eval "$(optlayers --show-completion bash)"
    complete -p optlayers
    for line in "optlayers export" "optlayers search --sam"; do
      COMP_WORDS=($line); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
      _optlayers_completion optlayers; echo "${COMPREPLY[@]}"
    done
    """
    done = subprocess.run(
        ["bash", "-c", script], env=ENVIRONMENT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    function, commands, options = done.stdout.splitlines()
    assert "_optlayers_completion" in function
    assert commands.split() == ["export", "export-best"]
    assert options.split() == ["--sampler"]


def test_zsh_completes_with_the_help_of_each_option() -> None:
    asked = {
        "_OPTLAYERS_COMPLETE": "complete_zsh",
        "_TYPER_COMPLETE_ARGS": "optlayers search --sto",
    }
    done = subprocess.run(
        ["optlayers"], env={**ENVIRONMENT, **asked}, capture_output=True, text=True, timeout=240
    )
    assert "_arguments" in done.stdout, done.stderr
    assert '"--storage":"Database URL of the study' in done.stdout


def test_the_script_for_zsh_is_one() -> None:
    zsh = shutil.which("zsh")
    if zsh is None:
        if os.environ.get("CI"):
            pytest.fail("zsh is not here; install it with apt-get install zsh")
        pytest.skip("zsh is not here; install it with apt-get install zsh")
    # Sourced by a real zsh with its completion system, as `.zshrc` does.
    script = """
    autoload -Uz compinit && compinit -u -D
    eval "$(optlayers --show-completion zsh)"
    print -- $_comps[optlayers]
    """
    done = subprocess.run(
        [zsh, "-fc", script], env=ENVIRONMENT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert "_optlayers_completion" in done.stdout
