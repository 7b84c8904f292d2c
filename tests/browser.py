"""A headless Chromium for tests of HTML pages: Debian's `chromium` and `chromium-driver`, driven by selenium."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

PACKAGES = ("chromium", "chromium-driver")
PROGRAMS = ("chromium", "chromedriver")
INSTALLING_LIMIT_S = 240
FLAGS = ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1500,1000")


def why_not() -> str | None:
    """Say why there is no browser, after trying to install it where that is possible; None where there is one."""
    if all(map(shutil.which, PROGRAMS)):
        return None
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "needs chromium and chromedriver, and cannot install them without root and apt-get"
    # Another test process may be installing something else: apt-get waits for its lock.
    apt_get = ("apt-get", "--yes", "--quiet", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=1")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (("update",), ("install", "--no-install-recommends", *PACKAGES)):
        try:
            done = subprocess.run(
                [*apt_get, *words], env=env, capture_output=True, text=True, timeout=INSTALLING_LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return f"needs chromium, and apt-get {words[0]} took longer than {INSTALLING_LIMIT_S} s"
        if done.returncode:
            return f"needs chromium, and apt-get {words[0]} failed: {done.stderr.strip()[-300:]}"
    return None


@contextmanager
def open_browser(profile: Path) -> Iterator["Chrome"]:
    """Start a browser with an empty profile in the given folder; it is ended with the block."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*FLAGS, f"--user-data-dir={profile}", *(("--no-sandbox",) if os.geteuid() == 0 else ())):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()
