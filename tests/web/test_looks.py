"""Every screen at two widths, in light and dark: nothing sticks out, texts have contrast, names; axe agrees."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.accessibility import violations
from tests.web.conftest import Serve
from tests.web.screens import Phone

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SHOTS = "SDMOBILE_SCREENSHOTS"
"""Names a folder that gets a picture of every screen."""
_LOOKS = [(320, "light"), (320, "dark"), (1200, "light"), (1200, "dark")]
_LEAST_CONTRAST = 4.5  # WCAG 2.2, 1.4.3
_LEAST_TARGET = 24  # CSS pixels, WCAG 2.2, 2.5.8
_HOLD = """(phase) => {
  const real = self.fetch;
  self.fetch = (address, options) =>
    options?.body && JSON.parse(options.body).phase === phase ? new Promise(() => {}) : real(address, options);
}"""
# Every element with text of its own: the ratio of contrast of its colour and what lies behind it.
_CONTRASTS = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = numbers(colour).map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if ((numbers(colour)[3] ?? 1) > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || element.matches(":disabled")) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(style.color), light(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push([element.tagName + "#" + element.id + " " + element.textContent.trim().slice(0, 30), ratio]);
  }
  return found;
}"""
_TARGETS = """() => [...document.querySelectorAll("button, a, input, summary")]
  .filter((element) => element.checkVisibility())
  .map((element) => (element.closest("label") ?? element).getBoundingClientRect())
  .map(({ width, height }) => [width, height])"""


def _unsupported(phone: Phone, address: str, _server: Any) -> None:
    phone.open(address.replace("127.0.0.1", "phone.test"))


def _without_gpu(phone: Phone, address: str, server: Any) -> None:
    hidden = b"Object.defineProperty(WorkerNavigator.prototype, 'gpu', { value: undefined });"
    server.replaced["wasm/phone_worker.js"] = hidden + server.content("wasm/phone_worker.js")
    phone.open(address)


def _ready(phone: Phone, address: str, _server: Any) -> None:
    phone.open(address)


def _too_large(phone: Phone, address: str, server: Any) -> None:
    server.job["memory"]["limit_bytes"] = 20 << 20
    phone.open(address)


def _running(phone: Phone, address: str, _server: Any) -> None:
    phone.open(address, accelerator="wasm")
    phone.worker.evaluate(_HOLD, "decoding")
    phone.start()
    phone.page.wait_for_selector("#phase:has-text('Decoding')")


def _passed(phone: Phone, address: str, _server: Any) -> None:
    phone.run(address, accelerator="wasm")


def _failed(phone: Phone, address: str, server: Any) -> None:
    server.refuse_results = 422
    server.replaced["bundle/vae_decoder.tflite"] = b"damaged"
    phone.run(address, accelerator="wasm")


SCREENS: dict[str, Callable[[Phone, str, Any], None]] = {
    "unsupported": _unsupported,
    "without-gpu": _without_gpu,
    "ready": _ready,
    "too-large": _too_large,
    "running": _running,
    "passed": _passed,
    "failed": _failed,
}


@pytest.mark.parametrize("screen", SCREENS)
def test_a_screen_can_be_read_by_everybody(browser: Browser, serve_job: Serve, screen: str) -> None:
    context = browser.new_context(reduced_motion="reduce", accept_downloads=True)
    phone = Phone(context.new_page())
    with serve_job(runs=1) as (server, address):
        SCREENS[screen](phone, address, server)
        for width, scheme in _LOOKS:
            phone.page.set_viewport_size({"width": width, "height": 800})
            phone.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            _check_looks(phone)
            if (width, scheme) in (_LOOKS[0], _LOOKS[-1]):  # each takes seconds
                assert not violations(phone.page)
            if os.environ.get(SHOTS):
                file = Path(os.environ[SHOTS]) / f"{screen}-{width}-{scheme}.png"
                phone.page.screenshot(path=file, full_page=True)
        _check_structure(phone)
    context.close()


def _check_looks(phone: Phone) -> None:
    assert phone.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    contrasts = phone.page.evaluate(_CONTRASTS)
    assert len(contrasts) > 3
    low = [(text, round(ratio, 2)) for text, ratio in contrasts if ratio < _LEAST_CONTRAST]
    assert not low
    small = [size for size in phone.page.evaluate(_TARGETS) if min(size) < _LEAST_TARGET]
    assert not small


def _check_structure(phone: Phone) -> None:
    """Landmarks, one heading of each level, names of everything that can be used, focus on the screen's heading."""
    page = phone.page
    assert page.get_attribute("html", "lang") == "en"
    assert page.get_by_role("banner").count() == 1
    assert page.get_by_role("main").count() == 1
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.get_by_role("heading", level=2).count() == 1
    assert page.get_by_role("region").first.is_visible()
    for role in ("button", "radio", "progressbar", "table", "img", "link", "group"):
        for found in page.get_by_role(role).all():  # pyright: ignore[reportArgumentType]
            snapshot = found.aria_snapshot().splitlines()[0]
            assert role == "group" or re.match(rf"- '?{role} \"\w", snapshot), snapshot
    assert page.evaluate("document.activeElement.tagName") == "H2"
    assert page.evaluate("document.activeElement.id") == page.get_by_role("heading", level=2).get_attribute("id")


def test_it_can_be_used_by_keys_alone(browser: Browser, serve_job: Serve) -> None:
    context = browser.new_context()
    phone = Phone(context.new_page())
    with serve_job(("vae_encoder",), runs=1) as (server, address):
        phone.open(address, accelerator="wasm")
        phone.page.keyboard.press("Tab")
        assert phone.page.evaluate("document.activeElement.value") == "all resident"
        phone.page.keyboard.press("ArrowDown")
        phone.page.keyboard.press("Tab")
        assert phone.page.evaluate("document.activeElement.id") == "start"
        phone.page.keyboard.press("Enter")
        phone.until_done()
        assert server.runs[0].way == "one at a time"
    context.close()


def test_what_changes_is_said_aloud_and_not_too_often(browser: Browser, serve_job: Serve) -> None:
    context = browser.new_context()
    phone = Phone(context.new_page())
    phone.page.add_init_script("""
      addEventListener("DOMContentLoaded", () => {
        globalThis.said = [];
        const live = document.querySelector("[role=status]");
        new MutationObserver(() => live.textContent && said.push(live.textContent)).observe(live, { childList: true });
      });
    """)
    with serve_job(runs=1) as (_, address):
        phone.run(address, accelerator="wasm")
        said = phone.page.evaluate("said")
    assert "Compiling unet …" in said
    assert said.count("Sampling unet …") == 1
    assert said[-1] == "Done: passed."
    context.close()
