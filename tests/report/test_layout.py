"""The report in a browser: nothing is wider than its place, on a desk and on a phone, in light and in dark."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sdmobile.report.html import render_report
from sdmobile.validate.checks import ExtraCheck, Status
from sdmobile.validate.gpu.browser import open_page
from sdmobile.validate.gpu.places import SETUP, find_browser
from sdmobile.validate.results import ValidationReport
from tests.accessibility import violations
from tests.report.samples import images, manifest, validation

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDTHS = (1200, 1000, 999, 400, 320)
RUNTIMES = ("evaluator", "evaluator-fp16", "evaluator-fp16acc", "coreml-ne")
PROMPT = "a large red circle to the left of a small blue square above a medium yellow triangle on a white background"

_OVERFLOWING = """() => [...document.querySelectorAll("html, body, main, .card, table, td, th, dd, p, figure, svg")]
  .filter(e => e.clientWidth && e.scrollWidth > e.clientWidth)
  .map(e => [e.tagName, e.textContent.trim().slice(0, 60), e.scrollWidth, e.clientWidth])"""
# Where a text takes several lines, how many of its words stand on one, on average; figures and names are one word.
_WORDS_A_LINE = """() => [...document.querySelectorAll("td.prose, figcaption, th[colspan]")]
  .filter(e => e.getClientRects().length)
  .map(e => {
    const range = document.createRange();
    range.selectNodeContents(e);
    const lines = new Set([...range.getClientRects()].map(r => Math.round(r.top / 8))).size;
    return [e.textContent.trim(), lines, e.textContent.trim().split(/\\s+/).length];
  })"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    browser = find_browser()
    missing = None if find_spec("playwright") else "Playwright is not installed"
    if missing is None and browser is None:
        missing = f"there is no Chromium. {SETUP}"
    if missing is not None:
        if os.environ.get("SDMOBILE_GPU_REQUIRED"):
            pytest.fail(missing)
        pytest.skip(missing)
    with open_page(str(browser)) as opened:
        opened.set_default_timeout(10_000)
        yield opened


def full() -> ValidationReport:
    """A validation with every table at its widest: all runtimes, long prompts, causes, parameters."""
    small = validation()
    good = small.components[0]
    components = tuple(
        replace(check, runtime=name, worst=check.worst or good.worst, samples=good.samples)
        for check in small.components
        for name in RUNTIMES
    )
    drawn = small.trajectories[1]
    trajectories = tuple(
        replace(drawn, prompt=f"{PROMPT} {seed}", seed=4294967290 + seed, runtime=name, seconds=3661.0)
        for name in RUNTIMES
        for seed in range(4)
    )
    tensor: dict[str, Any] = {
        "parameter": "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.weight",
        "stored": ["down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0_weight_to_fp16_palettized"],
        "transform": "transposed",
        "max_error": 1e-4,
        "verdict": "exact",
    }
    finding = "sdmobile.rewrites:" + "transformer_blocks_0_attn1_" * 8
    compared = ExtraCheck("weights", "unet", Status.FAILED, reason=finding, findings=(finding,), tensors=(tensor,))
    named = ExtraCheck(
        "noise_golden.json", "unet", Status.PASSED, "a-phone-with-a-long-serial-number", figures={"n": 1.0}
    )
    extras = (*small.extras, compared, named)
    return replace(small, components=components, trajectories=trajectories, extras=extras)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = manifest()
    bundle["source"]["name"] = "a-checkpoint-with-a-long-name-" * 3
    bundle["components"]["unet"]["file"] = "ControlNet_" + "a_long_name_of_a_network_" * 4 + ".mlpackage"
    path = "TextEncoder.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    bundle["files"][path] = bundle["files"]["Unet.mlpackage/Manifest.json"]
    pictures = [{"torch": images()[0]["torch"], **dict.fromkeys(RUNTIMES, np.zeros((1, 3, 512, 512), np.float32))}]
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(render_report(bundle, full().to_json(), pictures), "utf-8")
    return file


def shown(page: Page, report: Path, width: int) -> Page:
    """Opens the report in a window of a width, with everything unfolded."""
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    return page


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_its_place(page: Page, report: Path, width: int) -> None:
    opened = shown(page, report, width)
    assert opened.locator("table").count() >= 15
    assert opened.evaluate("document.documentElement.clientWidth") == width
    assert opened.evaluate(_OVERFLOWING) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_texts_do_not_break_word_by_word(page: Page, report: Path, width: int) -> None:
    texts = shown(page, report, width).evaluate(_WORDS_A_LINE)
    assert len(texts) > 30
    assert [text for text, lines, words in texts if lines > 1 and words / lines < 2] == []


def test_a_narrow_page_names_every_figure(page: Page, report: Path) -> None:
    """Where the heads of the tables are not shown, each cell says its column; where they are, none does."""
    label = "cell => getComputedStyle(cell, '::before').content"
    for width, head, says in ((1200, True, "none"), (400, False, '"PSNR"')):
        opened = shown(page, report, width)
        assert opened.locator("thead").first.is_visible() is head
        assert opened.locator("td[data-label=PSNR]").first.evaluate(label) == says


def test_light_and_dark(page: Page, report: Path) -> None:
    """Ink on the page and on cards keeps the contrast that WCAG 2.1 asks of text, 4.5, in both."""
    contrast = """() => {
      const light = text => {
        const parts = text.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255);
        const [r, g, b] = parts.map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ground = e => {
        const colour = getComputedStyle(e).backgroundColor;
        return colour === "rgba(0, 0, 0, 0)" ? ground(e.parentElement) : colour;
      };
      return [...document.querySelectorAll("h1, p, td, th, dt, dd, summary, .badge, .legend span")].map(e => {
        const pair = [light(getComputedStyle(e).color), light(ground(e))].sort((a, b) => b - a);
        return [e.className || e.tagName, (pair[0] + 0.05) / (pair[1] + 0.05)];
      });
    }"""
    grounds = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        opened = shown(page, report, 1200)
        assert [(name, ratio) for name, ratio in opened.evaluate(contrast) if ratio < 4.5] == []
        grounds.add(opened.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


@pytest.mark.parametrize("width", [1200, 400])
def test_axe_finds_nothing(page: Page, report: Path, width: int) -> None:
    assert not violations(shown(page, report, width))
