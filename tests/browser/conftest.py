"""A browser for the tests of pages: Debian's chromium, driven by Playwright; one for all of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def missing() -> str:
    """What has to be installed, "" for nothing."""
    if find_spec("playwright") is None:
        return "playwright is not installed: pip install playwright"
    return "" if any(map(shutil.which, NAMES)) else "there is no chromium: apt-get install chromium"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A chromium; where there is none the tests are skipped, in CI they fail."""
    if why := missing():
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, NAMES)))
        made = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()
