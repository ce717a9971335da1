"""Sets up both ways of the GPU check: `make gpu-setup`, or `python -m sdmobile.validate.gpu.setup`.

What is there already is left alone. The exit code is 8 if a part is missing in the end.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from sdmobile.errors import EXIT_MISSING, EXIT_OK, MissingDependencyError, SdmobileError
from sdmobile.validate.gpu import places
from sdmobile.validate.gpu.setup.page import build_page, install_browser
from sdmobile.validate.gpu.setup.vulkan_driver import install_driver

if TYPE_CHECKING:
    from collections.abc import Callable

_PROBE_SECONDS = 120


def main() -> int:
    """Sets everything up, prints a line about each part and returns the exit code."""
    steps: tuple[tuple[str, Callable[[], str]], ...] = (
        ("browser", install_browser),
        ("page", build_page),
        ("browser's GPU", probe_browser),
        ("Vulkan driver", install_driver),
    )
    code = EXIT_OK
    for name, step in steps:
        try:
            print(f"{name}: {step()}", file=sys.stderr)
        except (SdmobileError, OSError) as error:
            print(f"{name}: FAILED: {error}", file=sys.stderr)
            code = EXIT_MISSING
    return code


def probe_browser() -> str:
    """Opens the page in the browser and returns a line about the GPU that it finds.

    Raises:
        MissingDependencyError: the browser does not start, or offers the page no GPU.
    """
    from sdmobile.basics.scratch import temporary_folder
    from sdmobile.validate.gpu.check import prepare

    ready = prepare("browser")
    if ready.missing is not None:
        raise MissingDependencyError("the browser way needs all its parts", ready.missing, ready.fix)
    from playwright.sync_api import Error

    from sdmobile.validate.gpu.browser import describe_gpu, open_page
    from sdmobile.validate.gpu.server import serve

    with temporary_folder("gpu-page") as results, serve(places.page_folder(), {}, results) as address:
        try:
            with open_page(ready.settings["browser"]) as page:
                page.set_default_timeout(_PROBE_SECONDS * 1000)
                page.goto(address)
                return describe_gpu(page)
        except Error as error:
            fix = f"Try another Chromium, named by {places.BROWSER_VARIABLE}"
            raise MissingDependencyError("the browser must run the page", error, fix) from error


if __name__ == "__main__":
    sys.exit(main())
