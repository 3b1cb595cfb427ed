"""What the benchmarks share: their arguments, the tables they write, and where things are."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LANDSCAPE = ROOT / "studies" / "demo" / "landscape.npz"
REAL_LANDSCAPE = ROOT / "examples" / "smollm2_mamba" / "lookup.npz"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser that explains itself by the first line of a docstring, with `--out FOLDER`."""
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    made.add_argument("--out", type=Path, help="a folder for the table; it is printed anyhow")
    return made


def made_by(file: str, *arguments: str) -> str:
    """The line below a table's title: "Made by `benchmarks/search/search.py`"."""
    program = Path(file).resolve().relative_to(ROOT).as_posix()
    return f"Made by `{' '.join([program, *arguments])}`"


def given_arguments() -> list[str]:
    """The arguments of this call, less `--out`: where a table goes is not what made it."""
    words = sys.argv[1:]
    return [word for i, word in enumerate(words) if "--out" not in (word, sys.argv[i])]


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    head, *body = (f"| {' | '.join(map(str, cells))} |" for cells in [heads, *rows])
    return "\n".join([head, "|" + "---|" * len(heads), *body])


def save(folder: Path | None, name: str, text: str) -> None:
    """Print a text, and write it to a file of a folder where there is one."""
    print(text)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.rstrip("\n") + "\n", encoding="utf-8")


class Rows:
    """A table of two columns that is printed and saved row by row: a run may be cut off."""

    def __init__(self, folder: Path | None, stem: str, made: str) -> None:
        self.folder, self.stem, self.made = folder, stem, made
        self.rows: dict[str, str] = {}
        self.start = time.perf_counter()

    def say(self, text: str) -> None:
        """Print a line with the seconds that have passed."""
        print(f"[{time.perf_counter() - self.start:5.0f} s] {text}", flush=True)

    def note(self, name: str, value: str) -> None:
        """Add a row, print it, and save all so far."""
        self.rows[name] = value
        self.say(f"{name}: {value}")
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        text = f"# {self.stem}\n\n{self.made}.\n\n{table(['what', ''], self.rows.items())}\n"
        (self.folder / f"{self.stem}.md").write_text(text, encoding="utf-8")
        rows = json.dumps(self.rows, indent=1) + "\n"
        (self.folder / f"{self.stem}.json").write_text(rows, encoding="utf-8")
