"""What a test does with the page and its worker."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page, Worker

PATIENCE = 120_000
"""Milliseconds."""


@dataclass(frozen=True)
class Phone:
    """A page on a phone.

    Args:
        page: of Playwright.
    """

    page: Page

    def open(self, address: str, **asked: str) -> None:
        """Opens the page and waits until it has made up its mind.

        Args:
            address: of the page.
            asked: what stands behind the question mark.
        """
        self.page.set_default_timeout(PATIENCE)
        self.page.goto(address + "?" + "&".join(f"{key}={value}" for key, value in asked.items()))
        self.page.wait_for_selector("section:not([hidden])")

    def start(self) -> None:
        """Presses the button."""
        self.page.click("#start")

    def until_done(self) -> str:
        """Waits for the end and returns what became of the results."""
        self.page.wait_for_selector("#posted:not(:empty)")
        return self.text("posted")

    def run(self, address: str, **asked: str) -> str:
        """Runs a whole job; returns what became of the results."""
        self.open(address, auto="1", **asked)
        return self.until_done()

    @property
    def worker(self) -> Worker:
        """The worker that computes."""
        return self.page.workers[0]

    def screen(self) -> str:
        """Returns which screen is shown."""
        return self.page.locator("section:not([hidden])").get_attribute("id") or ""

    def text(self, identifier: str) -> str:
        """Returns the text of an element."""
        return self.page.inner_text(f"#{identifier}")

    def saved(self) -> bytes:
        """Returns the document that the page offers to save."""
        with self.page.expect_download() as waiting:
            self.page.click("#download")
        return waiting.value.path().read_bytes()

    def document(self) -> dict[str, Any]:
        """Returns the document that the page shows, without the picture's bytes."""
        return json.loads(self.page.text_content("#log") or "")


@dataclass(frozen=True)
class Modules:
    """The page's modules, called one by one.

    Args:
        page: opened at the sources' server.
    """

    page: Page

    def call(self, file: str, body: str, *given: Any) -> Any:
        """Returns what a function body returns.

        Args:
            file: of src/phone; the body knows what it exports as `m`.
            body: of an async function of `m` and `given`.
            given: arguments, as JSON.
        """
        script = f"async ([file, given]) => {{ const m = await import(`/src/phone/${{file}}`); {body} }}"
        return self.page.evaluate(script, [file, list(given)])
