"""Screenshots of the report and the dashboard of the demo study, for the README.

Searches the demo first, where the database does not hold it yet (about a minute on two cores).
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from PIL import Image
from playwright.sync_api import sync_playwright

from optlayers.report.images import browser

ROOT = Path(__file__).resolve().parents[2]

COLOURS = 256


def run(*arguments: str, cwd: Path) -> None:
    """One command of optlayers."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run(
        [sys.executable, "-m", "optlayers", *arguments],
        cwd=cwd,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def shrink(path: Path) -> None:
    """Fewer colours: a screenshot of a page needs no more, and docs stay small."""
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} KB")


def shoot_report(chrome: Any, page: Path, out: Path) -> None:
    """The report's head in both lights and on a phone, and its figures."""
    for name, width, height, scheme in (
        ("report-light", 1240, 1240, "light"),
        ("report-dark", 1240, 1240, "dark"),
        ("report-phone", 390, 1180, "light"),
    ):
        tab = chrome.new_page(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            reduced_motion="reduce",
        )
        tab.goto(page.as_uri())
        tab.wait_for_selector("html[data-drawn]", timeout=60_000)
        if name == "report-dark":
            tab.evaluate("document.querySelector('#pair-synergy').scrollIntoView()")
        elif name == "report-phone":
            tab.evaluate("document.querySelector('#score-by-size').scrollIntoView()")
        tab.wait_for_timeout(300)
        tab.screenshot(path=out / f"{name}.png")
        shrink(out / f"{name}.png")
        tab.close()


def shoot_dashboard(chrome: Any, folder: Path, out: Path) -> None:
    """The study in the dashboard, and the note of its best trial."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "optlayers", "dashboard", "--port", str(port)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    running = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                urlopen(address, timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        tab = chrome.new_page(viewport={"width": 1300, "height": 1850})
        tab.goto(f"{address}/dashboard/studies/1")
        tab.wait_for_selector(".ytick >> text=layer_05", timeout=60_000)
        tab.wait_for_selector("text=The funnel")
        tab.wait_for_timeout(1500)
        tab.screenshot(path=out / "dashboard.png")
        shrink(out / "dashboard.png")
        tab.close()
    finally:
        running.kill()
        running.wait()


def main() -> None:
    """Search, report, photograph."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT, help="where optuna.db lies")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    args = parser.parse_args()
    folder = args.folder.resolve()
    run("search", cwd=folder)
    page = folder / "report.html"
    baselines = ROOT / "benchmarks" / "search" / "demo-baselines.json"
    run("report", "--out", str(page), "--baselines", str(baselines), cwd=folder)
    with sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=browser(), args=["--no-sandbox"])
        shoot_report(chrome, page, args.out.resolve())
        shoot_dashboard(chrome, folder, args.out.resolve())
        chrome.close()


if __name__ == "__main__":
    main()
