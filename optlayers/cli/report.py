"""`optlayers report`: what a study has found, as a page, Markdown or JSON, with figures."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from optlayers.cli.app import StorageOption, StudyOption, app, say
from optlayers.storage.connect import DEFAULT_URL


class Format(StrEnum):
    """How a report is written."""

    html = "html"
    md = "md"
    json = "json"


@app.command()
def report(
    study: StudyOption = "demo",
    storage: StorageOption = DEFAULT_URL,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where it goes (default: report.FORMAT)."),
    ] = None,
    kind: Annotated[
        Format | None,
        typer.Option("--format", help="html, md or json (default: by the name of --out)."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="DIR", help="Write the figures as SVG and PNG too."),
    ] = None,
    baselines: Annotated[
        Path | None,
        typer.Option(
            "--baselines",
            metavar="FILE",
            help="Other searches, as benchmarks/search/demo_baselines.py writes.",
        ),
    ] = None,
) -> None:
    """Write a report of a study, finished or under way: one file that needs no network."""
    import json as jsonlib

    from optlayers.cli.stored import study_of
    from optlayers.errors import InputError
    from optlayers.report.baselines import read_baselines
    from optlayers.report.figures import figures
    from optlayers.report.images import browser, write_images
    from optlayers.results.view import StudyView
    from optlayers.storage.connect import open_study, storage_errors

    chosen = kind or (Format(out.suffix[1:]) if out and out.suffix[1:] in list(Format) else None)
    chosen = chosen or Format.html
    target = out or Path(f"report.{chosen}")
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise InputError(f"--out {target}: not a file in a folder that exists; name another")
    if images is not None:
        browser()
    definition = study_of(study, storage)
    beside = read_baselines(baselines) if baselines is not None else []
    opened = open_study(storage, definition, create=False)
    with storage_errors(storage):
        view = StudyView.of(definition, opened)
    drawn = figures(view, beside)
    if chosen is Format.html:
        from optlayers.report.page import page

        text = page(view, drawn)
    elif chosen is Format.md:
        from optlayers.report.text import markdown

        where = None if images is None else os.path.relpath(images, target.parent)
        text = markdown(view, drawn, where)
    else:
        from optlayers.report.text import as_data

        text = jsonlib.dumps(as_data(view, beside), indent=1, allow_nan=False) + "\n"
    _write(target, text)
    say(f"wrote {target}, {_size(len(text.encode()))}")
    if images is not None:
        files = write_images(drawn, images)
        say(f"wrote {len(files)} images to {images}")


def _size(count: int) -> str:
    """Bytes for people: `2.1 MB`, `14 KB`."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{max(1, round(count / 1e3))} KB"


def _write(target: Path, text: str) -> None:
    """Write by rename, so that no half-written file stands there."""
    from optlayers.errors import RunError

    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise RunError(f"{target}: {error.strerror}; make room, or choose another place") from None
