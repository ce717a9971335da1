"""What axe finds on a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page


def violations(page: Page) -> list[str]:
    """Returns the rules that a page breaks, of all that axe has, with the elements."""
    from axe_playwright_python.sync_playwright import Axe

    response = Axe().run(page).response
    assert len(response["passes"]) > 10  # it did look
    return [f"{one['id']}: {[node['html'][:80] for node in one['nodes']]}" for one in response["violations"]]
