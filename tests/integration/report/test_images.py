"""Images where the browser does not do its part; no real one is needed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from optlayers.errors import RunError
from optlayers.report import images
from optlayers.report.document import figures, sections
from tests.helpers.finished import Finished


@pytest.mark.parametrize("wait", ["exec sleep 100", "trap '' TERM\nwhile :; do sleep 1; done"])
def test_a_browser_that_hangs_is_ended(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: str
) -> None:
    browser = tmp_path / "chrome"
    browser.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\n{wait}\n")
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER_PATH", str(browser))
    monkeypatch.setattr(images, "TIMEOUT", 3)
    begun = time.monotonic()
    with pytest.raises(RunError, match="failed to draw the figures: no answer for 3 s") as caught:
        images.write_images(figures(sections(finished.view))[:1], tmp_path / "images")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begun < 60
    pid = (tmp_path / "pid").read_text().strip()
    assert not Path(f"/proc/{pid}").exists()
