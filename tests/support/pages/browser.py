"""A page in a Chromium of this machine, without a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Programs, of which the first that is installed is taken."""

WIDTHS = (390, 1440)
"""Of a phone and of a desk, pixels."""
SCHEMES = ("light", "dark")


def chromium() -> str:
    """The path of a browser. Skips the test where there is none, or nothing that drives it."""
    for package in ("playwright", "axe_playwright_python", "pypdfium2"):
        pytest.importorskip(package, reason=f"{package} is not installed; `pip install -e '.[browser]'` brings it")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium is installed; Debian's package chromium-headless-shell is enough")
    return found


@dataclass
class Opened:
    """A page that is shown, and what it did."""

    page: Any
    """playwright's Page."""
    console: list[str] = field(default_factory=list)
    """What it told the console, errors included."""
    requests: list[str] = field(default_factory=list)
    """What it asked for, itself included."""

    @property
    def overflow(self) -> int:
        """By how many pixels it is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


@contextmanager
def opened(browser: Any, file: Path, width: int = 1440, scheme: str = "light", **more: Any) -> Iterator[Opened]:
    """A file in a window of its own; `more` is of playwright's `new_context`."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, **more)
    found = Opened(context.new_page())
    found.page.on("console", lambda message: found.console.append(message.text))
    found.page.on("pageerror", lambda error: found.console.append(str(error)))
    found.page.on("request", lambda request: found.requests.append(request.url))
    found.page.goto(file.as_uri())
    try:
        yield found
    finally:
        context.close()


def findings(browser: Any, file: Path, scheme: str) -> list[str]:
    """What axe-core finds that is serious or critical, with the first element that has it."""
    from axe_playwright_python.sync_playwright import Axe

    # A page lets no script run but its own.
    with opened(browser, file, scheme=scheme, bypass_csp=True) as shown:
        for details in shown.page.locator("details").all():
            details.evaluate("element => element.open = true")
        found = Axe().run(shown.page).response
    return [
        f"{v['id']}: {v['help']} ({v['nodes'][0]['html'][:120]})"
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
    ]
