from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from sdmobile.basics.metrics import to_pixels
from sdmobile.report.html import render_report
from tests.report.samples import HASH, images, manifest, validation

VOID = {"meta", "img", "br", "link", "line", "input"}


class Outline(HTMLParser):
    """Collects elements and text, and insists that every element is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] != "style":
            self.text.append(data)


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(manifest(), validation().to_json(), images())


@pytest.fixture(scope="module")
def outline(html: str) -> Outline:
    parser = Outline()
    parser.feed(html)
    parser.close()
    assert parser.stack == []
    return parser


def test_scaled_values_are_said() -> None:
    bundle = manifest()
    streams = [{"stream": "decoder.conv_in", "largest": 2e5, "exponent": 5}]
    bundle["components"]["vae_decoder"]["float16_scales"] = {"measured_on": "2 drawn pictures", "streams": streams}
    shown = "<p>Float16: 1 stream of values was scaled by 2^-5, exactly"
    assert shown in render_report(bundle, validation().to_json(), images())
    assert shown not in render_report(manifest(), validation().to_json(), images())


def test_needs_no_network_and_no_script(html: str, outline: Outline) -> None:
    tags = {tag for tag, _ in outline.elements}
    assert not tags & {"script", "link", "iframe", "object"}
    for _, attributes in outline.elements:
        for name in ("src", "href"):
            if name in attributes:
                assert str(attributes[name]).startswith("data:image/png;base64,")
    assert "url(" not in html
    assert "@import" not in html
    assert "prefers-color-scheme: dark" in html


def test_figures_are_shown(outline: Outline) -> None:
    text = " ".join(" ".join(outline.text).split())
    for expected in (
        "shapes-64 for ios (iphone-15-pro)",
        "71.2 dB",
        "1.50e-03",
        "1 − 1.0e-07",
        "48.5 dB",
        "30.0 dB",
        "RuntimeError: <boom>",
        "not among --components",
        "RuntimeError: no memory",
        "11 channels in 4 groups",
        "kept <two> layers in float32",
        "2 min 10 s",
        "900.0 MiB",
        HASH,
        "Nothing was run",
        "2 prompts",
        "0.9876",
        "×8, most at step 3 (×4)",
        "no longer obeyed",
        "BROADCAST_TO in <mid>",
        "Pixel 9",
        "inference_ms 12.5",
        "mid.attn1",
        "7.00e+04",
        "largest value 1.20e+01: all fit",
    ):
        assert expected in text, expected
    assert text.count("not run") >= 2


def test_text_from_outside_is_escaped(html: str, outline: Outline) -> None:
    assert "<b>red</b>" not in html
    assert "a <b>red</b> circle & a square" in "".join(outline.text)


def test_rewrites_of_one_rule_are_one_row(outline: Outline) -> None:
    text = " ".join(outline.text)
    assert re.search(r"group_norm\s+exact-up-to-rounding\s+applied\s+6\s", text)
    assert "down_blocks.0.norm" in text
    assert "down_blocks.5.norm" not in text  # named up to four


def test_pictures_are_the_decoders_pixels(outline: Outline) -> None:
    sources = [str(attributes["src"]) for tag, attributes in outline.elements if tag == "img"]
    assert len(sources) == 4
    shown = Image.open(io.BytesIO(base64.b64decode(sources[2].partition(",")[2])))
    np.testing.assert_array_equal(np.asarray(shown), to_pixels(images()[0]["evaluator-fp16"]))


def test_plot_has_a_line_per_run_and_a_gap_at_nan(outline: Outline) -> None:
    paths = [str(attributes["d"]) for tag, attributes in outline.elements if tag == "path"]
    assert [path.count("M") for path in paths[:2]] == [1, 2]
    assert [path.count("L") for path in paths[:2]] == [2, 0]


def test_without_validation() -> None:
    html = render_report(manifest("android", None), None)
    assert "this bundle was not validated" in html
    assert "not stated" in html


def test_the_parts_of_a_cut_component_and_its_guidance_are_named() -> None:
    bundle = manifest()
    contract = bundle["components"]["unet"]["contract"]
    bundle["components"]["unet"]["chain"] = [{**contract, "file_name": f"UnetChunk{n}.mlpackage"} for n in (1, 2)]
    html = render_report({**bundle, "guidance": "embedded"}, None)
    assert "UnetChunk1.mlpackage, UnetChunk2.mlpackage" in html
    assert "its scale is an input of the denoiser" in html
    assert "of one row" not in html


def test_every_parameter_is_listed() -> None:
    from dataclasses import replace

    from sdmobile.validate.checks import ExtraCheck, Status

    tensor = {
        "parameter": "mid.<norm>.weight",
        "stored": ["a", "b"],
        "transform": "",
        "max_error": 0.5,
        "verdict": "exact",
    }
    compared = ExtraCheck("weights", "unet", Status.PASSED, tensors=(tensor, {**tensor, "max_error": None}))
    html = render_report(manifest(), replace(validation(), extras=(compared,)).to_json())
    assert html.count("mid.&lt;norm&gt;.weight") == 2
    assert "a, b" in html
