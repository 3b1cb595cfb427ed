"""Figures as SVG and PNG files, drawn by an installed Chrome or Chromium through kaleido."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from optlayers.errors import InputError, RunError
from optlayers.report.section import INK, Section

WIDTH = 900
PNG_SCALE = 2
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TIMEOUT = 90  # seconds


def browser() -> str:
    """The path of a Chrome or Chromium; raises `InputError` where there is none."""
    named = os.environ.get("BROWSER_PATH")
    if named and Path(named).is_file():
        return named
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise InputError(
            "images need Chrome or Chromium, and none was found; install one (Debian: apt-get "
            "install chromium), or set BROWSER_PATH to it"
        )
    return found


def titled(figure: Section, columns: int = 3) -> dict[str, Any]:
    """The plot with its title above it; `margin.t` is the height of title and legend.

    columns: how many entries of the legend are side by side.
    """
    plot = figure.plot or {}
    entries = sum("name" in t and t.get("showlegend", True) for t in plot["data"])
    head = 56 + 24 * -(-entries // columns)
    title = {
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
    margin = {"l": 16, "r": 20, "t": head, "b": 16}
    layout = {**plot["layout"], "title": title, "margin": margin}
    return {"data": plot["data"], "layout": layout}


def write_images(figures: Sequence[Section], folder: Path) -> list[Path]:
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
    jobs: list[dict[str, Any]] = []
    for figure in figures:
        plot = titled(figure)
        height = figure.height + plot["layout"]["margin"]["t"]
        for kind, scale in (("svg", 1), ("png", PNG_SCALE)):
            size = {"width": WIDTH, "height": height, "scale": scale}
            path = str(folder / f"{figure.name}.{kind}")
            jobs.append({"fig": plot, "path": path, "opts": {"format": kind, **size}})
    logging.getLogger("kaleido").setLevel(logging.ERROR)
    logging.getLogger("choreographer").setLevel(logging.ERROR)

    hung: list[float] = []

    async def draw() -> None:
        # mathjax would be loaded from the network.
        drawer = kaleido.Kaleido(n=1, timeout=TIMEOUT, mathjax=False, path=chrome)
        limit = _end_after(TIMEOUT, drawer, hung)
        try:
            async with drawer:
                limit.cancel()
                limit = _end_after(TIMEOUT * len(jobs), drawer, hung)
                try:
                    await drawer.write_fig_from_object(jobs)
                finally:
                    limit.cancel()
                    limit = _end_after(TIMEOUT, drawer, hung)
        finally:
            limit.cancel()

    try:
        with warnings.catch_warnings(), ThreadPoolExecutor(1) as thread:
            warnings.simplefilter("ignore")
            # In a separate thread, since a notebook's thread already has an event loop.
            thread.submit(asyncio.run, draw()).result()
    except Exception as error:
        what = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if hung:
            what = f"no answer for {hung[0]:.0f} s; set BROWSER_PATH to another browser"
        raise RunError(f"{chrome} failed to draw the figures: {what}") from None
    return [Path(job["path"]) for job in jobs]


def _end_after(seconds: float, drawer: Any, hung: list[float]) -> asyncio.TimerHandle:
    """End the browser after so long, and note it in `hung`: what waits for it then fails."""

    def end() -> None:
        hung.append(seconds)
        starter = drawer.subprocess.pid  # a process that starts the browser, and ends with it
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{starter}/task/{starter}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
        drawer.subprocess.terminate()

    return asyncio.get_running_loop().call_later(seconds, end)
