"""What each way needs on this machine."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from sdmobile.errors import MissingDependencyError
from sdmobile.validate.gpu import places
from sdmobile.validate.gpu.vulkan import device_of

if TYPE_CHECKING:
    from sdmobile.validate.gpu.verdict import Way


@dataclass(frozen=True)
class Ready:
    """How to run a way, or what is missing.

    Args:
        module: the way's program.
        environment: variables that it needs.
        settings: what its order holds besides.
        missing: what this machine lacks.
        fix: what to do about that.
    """

    module: str
    environment: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    missing: str | None = None
    fix: str = places.SETUP


def prepare(way: Way) -> Ready:
    """Returns how to run a way here, or what is missing for it."""
    return _browser() if way == "browser" else _wheel()


def proves_gpu(way: Way, proof: dict[str, Any]) -> bool:
    """Whether the evidence of a run shows that the GPU computed."""
    from sdmobile.validate.gpu import browser, wheel

    return browser.proves_gpu(proof) if way == "browser" else wheel.proves_gpu(proof)


def _browser() -> Ready:
    module = "sdmobile.validate.gpu.browser"
    if find_spec("playwright") is None:
        return Ready(module, missing="Playwright is not installed", fix="Install it: pip install 'sdmobile[gpu]'")
    browser = places.find_browser()
    if browser is None:
        return Ready(module, missing="there is no Chromium")
    if not places.page_is_built():
        return Ready(module, missing="the page for the browser is not built, or is of another version")
    return Ready(module, settings={"browser": str(browser), "page": str(places.page_folder())})


def _wheel() -> Ready:
    module = "sdmobile.validate.gpu.wheel"
    if sys.platform != "linux":
        return Ready(module, missing="the wheel's accelerator is checked on Linux only", fix="Use the browser way")
    if find_spec("ai_edge_litert") is None:
        fix = "Install it: pip install 'sdmobile[android]'"
        return Ready(module, missing="ai-edge-litert is not installed", fix=fix)
    driver = places.find_driver()
    if driver is None:
        return Ready(module, missing="there is no software Vulkan driver of Mesa 25 or newer")
    try:
        device = device_of(driver)
    except MissingDependencyError as error:
        return Ready(module, missing=f"the software Vulkan driver does not load ({error.rule})")
    settings = {"adapter": f"{device.name}, {device.driver}", "limit": str(device.max_storage_buffer_range)}
    return Ready(module, driver.environment(), settings)
