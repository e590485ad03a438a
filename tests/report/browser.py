"""A headless Chromium that opens pages from disk, and tells what they ask for and complain of."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
NEEDS = "needs: apt-get install chromium chromium-driver"
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--window-size=1400,900"),
)


class Browser:
    """One window. `open` forgets what came before it."""

    def __init__(self, driver: Any) -> None:  # noqa: ANN401 - selenium's own types are partial
        self.driver = driver

    def open(self, page: Path, fragment: str = "") -> None:
        self.driver.get("about:blank")
        self.logs()
        self.driver.get(page.as_uri() + fragment)

    def run(self, script: str, *arguments: object) -> Any:  # noqa: ANN401 - any JSON value
        return self.driver.execute_script(script, *arguments)

    def keys(self, *keys: str) -> None:
        """Pressed wherever the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def click(self, selector: str) -> None:
        self.driver.find_element("css selector", selector).click()

    def shown(self) -> list[str]:
        """The labels of the rows that are shown, in their order."""
        script = "return [...document.querySelectorAll('#table tbody tr[id]')]"
        return list(self.run(f"{script}.filter((tr) => !tr.hidden).map((tr) => tr.id)"))

    def complaints(self) -> list[str]:
        """What stands in the console: errors of scripts, and what the page's policy refused."""
        return [each["message"] for each in self.driver.get_log("browser")]

    def logs(self) -> list[dict[str, Any]]:
        return [
            json.loads(each["message"])["message"] for each in self.driver.get_log("performance")
        ]

    def requests(self) -> list[str]:
        """Every address that was asked for since `open`, or since this was called."""
        return [
            each["params"]["request"]["url"]
            for each in self.logs()
            if each["method"] == "Network.requestWillBeSent"
        ]

    def emulate(self, command: str, **parameters: object) -> Any:  # noqa: ANN401
        return self.driver.execute_cdp_cmd(command, parameters)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """With a profile of its own, which is gone afterwards."""
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM or ""
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        try:
            yield Browser(driver)
        finally:
            driver.quit()


def is_local(address: str) -> bool:
    return urlsplit(address).scheme in ("file", "data", "about")
