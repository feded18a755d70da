"""A real headless Chromium for the tests of the page, without any network."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run "
    "--disable-background-networking"
    " --disable-component-update --disable-sync --disable-default-apps "
    "--host-resolver-rules=MAP*~NOTFOUND"
)


def open_browser(profile: Path, *, width: int = 1200, height: int = 1000) -> Any:
    """A driver, or a skipped test where the browser, its driver or selenium is missing."""
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="selenium is not installed (extra dev)"
    )
    from selenium.webdriver.chrome.service import Service

    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip(
            f"no chromium with chromedriver on this machine (browser {browser}, driver {driver})"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS.split(), f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(flag.replace("~", " ").replace("MAP*", "MAP *"))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))
