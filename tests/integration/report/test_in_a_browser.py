"""The report and the dashboard in a real browser."""

from __future__ import annotations

import math
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from optlayers.report.dashboard import annotate, artifact_folder, keep_reports
from optlayers.report.document import figures, sections
from optlayers.report.images import write_images
from optlayers.report.page import page
from tests.helpers.finished import Finished

# In milliseconds: megabytes of script, on machines that do much else.
PATIENCE = 120_000
MARKS = ".points path, .point path, .bars path, .lines path, .heatmaplayer image"


@pytest.fixture(scope="module")
def html(finished: Finished) -> Path:
    path = finished.folder / "page.html"
    path.write_text(page(finished.view, sections(finished.view)), encoding="utf-8")
    return path


def opened(chrome: Any, path: Path, faults: list[str], **options: Any) -> Any:
    """The report, drawn; errors and requests to the network are in `faults`."""
    tab = chrome.new_page(**options)
    tab.set_default_timeout(PATIENCE)
    tab.on("console", lambda said: faults.append(said.text) if said.type != "log" else None)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on(
        "request",
        lambda asked: (
            None if asked.url.startswith(("file:", "data:", "blob:")) else faults.append(asked.url)
        ),
    )
    tab.goto(path.as_uri())
    if options.get("java_script_enabled", True):
        tab.wait_for_selector("html[data-drawn]")
    return tab


def test_the_report_opens_without_errors_and_draws_every_figure(
    chrome: Any, html: Path, finished: Finished
) -> None:
    faults: list[str] = []
    tab = opened(chrome, html, faults)
    plots = tab.query_selector_all("[data-figure]")
    assert len(plots) == len(figures(sections(finished.view))) == 9
    for plot in plots:
        name = plot.get_attribute("data-figure")
        marks = plot.query_selector_all(MARKS)
        boxes = [box for mark in marks if (box := mark.bounding_box())]
        assert any(box["width"] > 1 or box["height"] > 1 for box in boxes), name
        assert len(plot.get_attribute("aria-label")) > 30
        behind = tab.query_selector_all(f"#{name} details tbody tr")
        assert behind, name
    assert tab.title() == "replayed: optlayers search report"
    assert tab.query_selector("html").get_attribute("lang") == "en"
    assert tab.evaluate("document.querySelectorAll('h1').length") == 1
    assert faults == []
    tab.close()


def test_the_leaderboard_sorts_both_ways_and_says_so(chrome: Any, html: Path) -> None:
    faults: list[str] = []
    tab = opened(chrome, html, faults)

    def column(number: int) -> list[float]:
        cells = tab.query_selector_all(f"#leaderboard-table tbody td:nth-child({number})")
        texts = [cell.inner_text().replace("\u2212", "-") for cell in cells]
        return [float(text.split()[0]) if text else math.nan for text in texts]

    ranks = column(1)
    assert ranks == sorted(ranks)
    score = "#leaderboard-table th:nth-child(4)"
    tab.click(f"{score} button")
    assert tab.get_attribute(score, "aria-sort") == "ascending"
    up = column(4)
    assert up == sorted(up)
    assert up != sorted(up, reverse=True)
    # By the keyboard too.
    tab.focus(f"{score} button")
    tab.keyboard.press("Enter")
    assert tab.get_attribute(score, "aria-sort") == "descending"
    assert column(4) == sorted(up, reverse=True)
    # What has no value stands last either way.
    for _ in range(2):
        tab.click("#leaderboard-table th:nth-child(6) button")
        behind = column(6)
        known = [b for b in behind if b == b]
        assert known
        assert all(b != b for b in behind[len(known) :])
    # The tables behind figures too, where minus signs and intervals count as numbers.
    gain = "#subjects th:nth-child(7)"
    tab.focus(f"{gain} button")
    tab.keyboard.press("Space")
    assert tab.get_attribute(gain, "aria-sort") == "ascending"
    cells = tab.query_selector_all("#subjects tbody td:nth-child(7)")
    gains = [float(cell.inner_text().replace("\u2212", "-")) for cell in cells]
    assert gains == sorted(gains)
    assert len(gains) == 8
    assert faults == []
    tab.close()


def test_it_fits_phones_dark_mode_and_paper(chrome: Any, html: Path) -> None:
    faults: list[str] = []
    phone = {"width": 375, "height": 700}
    tab = opened(chrome, html, faults, viewport=phone, color_scheme="dark")
    assert tab.get_attribute("html", "data-drawn") == "dark"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    dark = tab.evaluate("getComputedStyle(document.querySelector('#funnel')).backgroundColor")
    assert dark == "rgb(26, 26, 25)"
    tab.emulate_media(color_scheme="light")
    tab.wait_for_selector("html[data-drawn=light]")
    light = tab.evaluate("getComputedStyle(document.querySelector('#funnel')).backgroundColor")
    assert light != dark
    tab.emulate_media(media="print")
    assert not tab.is_visible("nav")
    assert tab.is_visible("#funnel-plot")
    assert tab.pdf(format="A4").startswith(b"%PDF")
    # As wide as a sheet, and afterwards as before.
    for media, event, fits in (("print", "before", "== 680"), ("screen", "after", "< 375")):
        tab.emulate_media(media=media)
        tab.evaluate(f"dispatchEvent(new Event('{event}print'))")
        tab.wait_for_function(f"document.querySelector('#funnel-plot svg').clientWidth {fits}")
    assert faults == []
    tab.close()


def test_without_scripts_the_tables_are_there(chrome: Any, html: Path) -> None:
    tab = opened(chrome, html, [], java_script_enabled=False)
    assert "Scripts are off, so the figures are not drawn" in tab.inner_text("main")
    tab.click("#funnel summary")
    assert "raced out" in tab.inner_text("#funnel details")
    tab.close()


def test_figures_are_drawn_as_svg_and_png(chrome: Any, finished: Finished, tmp_path: Path) -> None:
    chosen = [f for f in figures(sections(finished.view)) if f.name in ("funnel", "pair-synergy")]
    files = write_images(chosen, tmp_path / "images")
    assert len(files) == 4
    for file in files:
        head = file.read_bytes()[:8]
        assert head == b"\x89PNG\r\n\x1a\n" if file.suffix == ".png" else head.startswith(b"<svg")
    assert "raced out" in (tmp_path / "images" / "funnel.svg").read_text()


@pytest.fixture(scope="module")
def dashboard(finished: Finished) -> Iterator[str]:
    """`optlayers dashboard` on the finished study, with the report of an export."""
    export = finished.folder / "01-layers-2-5-7"
    export.mkdir()
    (export / "README.md").write_text("# A model card\n")
    (export / "checkpoint_info.json").write_text("{}\n")
    for _ in range(2):
        assert keep_reports(finished.study, finished.url, [export]) == 2
    assert len(list(artifact_folder(finished.url).iterdir())) == 2
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = subprocess.Popen(
        [sys.executable, "-m", "optlayers", "dashboard", "--port", str(port),
         "--storage", finished.url],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while True:
            try:
                urlopen(address, timeout=5).close()
                break
            except OSError:
                assert running.poll() is None, running.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield address
    finally:
        running.kill()
        running.communicate()


def test_the_dashboard_shows_the_study_and_its_layers(
    chrome: Any, dashboard: str, finished: Finished
) -> None:
    tab = chrome.new_page(viewport={"width": 1300, "height": 900})
    tab.set_default_timeout(PATIENCE)
    tab.goto(dashboard)
    tab.wait_for_selector("text=replayed")
    tab.goto(f"{dashboard}/dashboard/studies/1")
    # Importances: the layers that matter are the longest bars, and bars there are.
    bars = "text=Hyperparameter Importance"
    tab.wait_for_selector(bars)
    tab.wait_for_selector(".ytick >> text=layer_05")
    tab.wait_for_selector("text=The funnel")
    tab.wait_for_selector("text=What each layer adds")
    tab.wait_for_selector("text=01-layers-2-5-7-README.md")
    tab.goto(f"{dashboard}/dashboard/studies/1/note")
    tab.wait_for_selector("text=optlayers report --study replayed.yaml")
    tab.close()


def test_the_note_is_written_once_and_kept_when_edited(dashboard: str, finished: Finished) -> None:
    from optuna_dashboard import get_note, save_note

    assert get_note(finished.study).startswith("# replayed")
    save_note(finished.study, "my own words")
    annotate(finished.study, finished.definition, finished.url)
    finished.study._storage.set_study_system_attr(1, "optlayers:shown", -1)
    annotate(finished.study, finished.definition, finished.url)
    assert get_note(finished.study) == "my own words"
    attrs = finished.study._storage.get_study_system_attrs(1)
    assert [k for k in attrs if k.endswith("note_ver")] == ["dashboard:note_ver"]
