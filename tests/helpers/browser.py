"""A Chromium for tests: Debian's package, driven by Playwright."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from optlayers.errors import InputError
from optlayers.report.images import browser


def chromium() -> str:
    """The path of the browser; skipped, with what to install, where it is missing (fails in CI)."""
    try:
        return browser()
    except InputError as error:
        if os.environ.get("CI"):
            pytest.fail(f"{error}; or run scripts/install_browser")
        pytest.skip(f"{error}; or run scripts/install_browser")


def launched() -> Iterator[Any]:
    """A browser, for as long as the tests of a module run."""
    from playwright.sync_api import sync_playwright

    path = chromium()
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()
