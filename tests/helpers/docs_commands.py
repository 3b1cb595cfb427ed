"""The commands of the documents: found in their fenced blocks, sorted by what they need.

A block of ```bash is run line by line. A word after `bash` says what it needs that a test has not,
and its lines are then only checked for commands, options and files that exist:

    install   changes the environment          network   the hub, or another server
    checkout  the repository and minutes       cluster   a batch system or several machines
    minutes   more time than a test has        serves    goes on until it is interrupted (is run)

Python with a word after it (`part`) is no whole program, and not run.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.paths import ROOT

OURS = ("optlayers", "scripts/optlayers")
NEEDS = ("install", "network", "checkout", "cluster", "gpu", "minutes", "serves")
_FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class CodeBlock:
    """One fenced block: the file it stands in, its language, what it needs, its text."""

    file: Path
    language: str
    needs: str
    text: str


@dataclass(frozen=True)
class Command:
    """One line of a shell block; `words` as the shell splits them, comments left out."""

    file: Path
    needs: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(self.words)


def documents() -> list[Path]:
    """The documents whose commands are checked."""
    names = ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "studies/demo/README.md")
    fixed = [ROOT / name for name in (*names, "benchmarks/README.md")]
    return [*fixed, *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("examples/*/*.md"))]


def blocks(file: Path) -> list[CodeBlock]:
    """The fenced blocks of a document, in order."""
    text = file.read_text("utf-8")
    return [CodeBlock(file, m[1], m[2].strip(), m[3]) for m in _FENCE.finditer(text)]


def commands(block: CodeBlock) -> list[Command]:
    """The commands of a shell block: a line each, `&&` between several."""
    found = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word != "&&":
                words.append(word)
            elif words:
                found.append(Command(block.file, block.needs, tuple(words)))
                words = []
    return found


def shell_commands() -> list[Command]:
    """All commands of all documents, each once, in the order of the documents."""
    found: dict[tuple[str, tuple[str, ...]], Command] = {}
    for file in documents():
        for block in blocks(file):
            if block.language in ("bash", "sh", "shell", "console"):
                for command in commands(block):
                    # In a checkout the command is scripts/optlayers; it is the same.
                    words = tuple(w for w in command.words if w not in ("--study", "demo"))
                    key = ("optlayers", *words[1:]) if words[0] == OURS[1] else words
                    found.setdefault((command.needs, key), command)
    return list(found.values())
