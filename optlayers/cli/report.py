"""`optlayers report`: what a study has found, as a page, Markdown or JSON, with figures."""

from __future__ import annotations

import json as jsonlib
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from optlayers.cli import options as opt
from optlayers.cli.app import app, say
from optlayers.errors import InputError, RunError


class Format(StrEnum):
    """How a report is written."""

    html = "html"
    md = "md"
    json = "json"


@app.command()
def report(
    study: opt.Study = "demo",
    storage: opt.Storage = opt.DEFAULT_URL,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to write (default: report.FORMAT).")
    ] = None,
    kind: Annotated[
        Format | None,
        typer.Option("--format", help="html, md or json (default: by the suffix of --out)."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write the figures as SVG and PNG.")
    ] = None,
    baselines: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Other searches to draw, as benchmarks/search/demo_baselines.py writes.",
        ),
    ] = None,
) -> None:
    """Write a report of a study, done or under way: one file."""
    from optlayers.report.cost import read_baselines
    from optlayers.report.document import MARKDOWN_ROWS, ROWS, as_data, figures, markdown, sections
    from optlayers.report.images import browser, write_images
    from optlayers.report.page import page

    suffix = out.suffix[1:] if out else ""
    chosen = kind or (Format(suffix) if suffix in list(Format) else Format.html)
    target = out or Path(f"report.{chosen}")
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise InputError(f"--out {target}: not a file in an existing folder; choose another")
    if images is not None:
        browser()
    others = read_baselines(baselines) if baselines is not None else []
    view = opt.read_study(study, storage)
    found = sections(view, others, MARKDOWN_ROWS if chosen is Format.md else ROWS)
    if chosen is Format.html:
        text = page(view, found)
    elif chosen is Format.md:
        text = markdown(view, found, os.path.relpath(images, target.parent) if images else None)
    else:
        text = jsonlib.dumps(as_data(view, others), indent=1, allow_nan=False) + "\n"
    _write(target, text)
    size = len(text.encode())
    say(f"wrote {target}, " + (f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} KB"))
    if images is not None:
        files = write_images(figures(found), images)
        say(f"wrote {len(files)} images to {images}")


def _write(target: Path, text: str) -> None:
    """Write by rename, so that the file is never half-written."""
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RunError(f"{target}: {error.strerror}; free some space, or choose another") from None
