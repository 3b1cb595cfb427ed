"""Figures as SVG and PNG files, drawn by a Chrome or Chromium of this machine through kaleido."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from optlayers.errors import InputError, RunError
from optlayers.report.figure import Figure
from optlayers.report.theme import INK, SOFT

WIDTH = 900
SCALE = 2
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 90


def browser() -> str:
    """The path of a Chrome or Chromium; raises `InputError` where there is none."""
    named = os.environ.get("BROWSER_PATH")
    if named and Path(named).is_file():
        return named
    for name in BROWSERS:
        found = shutil.which(name)
        if found:
            return found
    raise InputError(
        "images need Chrome or Chromium and none is here; install one (Debian: apt-get install "
        "chromium), or set BROWSER_PATH to it"
    )


def titled(figure: Figure, columns: int = 3) -> dict[str, Any]:
    """The plot with its title in it, for where no page is around it.

    columns: how many entries of the legend stand side by side.
    """
    layout = dict(figure.plot["layout"])
    layout["title"] = {
        "text": figure.title,
        "x": 0,
        "xref": "paper",
        "xanchor": "left",
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "pad": {"t": 14},
        "font": {"size": 11 + 2 * columns, "color": INK},
    }
    layout["margin"] = {"l": 16, "r": 20, "t": _head(figure, columns), "b": 16}
    layout["font"] = {**layout["font"], "color": SOFT}
    return {"data": figure.plot["data"], "layout": layout}


def _head(figure: Figure, columns: int) -> int:
    """Pixels above the plot: the title, and the rows of the legend."""
    named = [t for t in figure.plot["data"] if "name" in t and t.get("showlegend", True)]
    return 56 + 24 * -(-len(named) // columns)


def write_images(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Write every figure as `NAME.svg` and `NAME.png`; returns the files.

    Raises `InputError` without a browser or without kaleido, `RunError` where they fail.
    """
    chrome = browser()
    try:
        import kaleido
    except ImportError:
        raise InputError("images need kaleido; install optlayers[images]") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--images {folder}: {error.strerror}; name a folder to write") from None
    jobs = []
    for figure in figures:
        for kind, scale in (("svg", 1), ("png", SCALE)):
            options = {
                "format": kind,
                "width": WIDTH,
                "height": figure.height + _head(figure, 3),
                "scale": scale,
            }
            path = folder / f"{figure.name}.{kind}"
            jobs.append({"fig": titled(figure), "path": str(path), "opts": options})
    logging.getLogger("kaleido").setLevel(logging.ERROR)
    logging.getLogger("choreographer").setLevel(logging.ERROR)

    async def draw() -> None:
        # No mathjax: it would be fetched from the network.
        async with kaleido.Kaleido(n=1, timeout=SECONDS, mathjax=False, path=chrome) as drawer:
            await drawer.write_fig_from_object(jobs)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # In a thread of its own: a notebook has an event loop already.
            with ThreadPoolExecutor(1) as thread:
                thread.submit(asyncio.run, draw()).result()
    except Exception as error:
        text = str(error).strip().splitlines()
        what = text[0] if text else type(error).__name__
        raise RunError(f"{chrome} could not draw the figures: {what}") from None
    return [Path(str(job["path"])) for job in jobs]
