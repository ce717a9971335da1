from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from sdmobile.report.junit import junit
from sdmobile.report.markdown import markdown
from tests.report.samples import validation


@pytest.fixture(scope="module")
def suites() -> ElementTree.Element:
    return ElementTree.fromstring(junit(validation().to_json()))


def cases(suites: ElementTree.Element, suite: str) -> dict[tuple[str, str], ElementTree.Element]:
    found = next(one for one in suites if one.attrib["name"].endswith(suite))
    return {(c.attrib["classname"].rsplit(".", 1)[1], c.attrib["name"]): c for c in found}


def test_every_check_is_a_test_case_with_its_outcome(suites: ElementTree.Element) -> None:
    components = cases(suites, ".components")
    outcome = {
        name: [child.tag for child in case if child.tag != "properties"] for (_, name), case in components.items()
    }
    assert outcome == {"text_encoder": [], "unet": ["failure"], "vae_decoder": ["error"], "vae_encoder": ["skipped"]}
    assert len(cases(suites, ".images")) == 3
    assert len(cases(suites, ".checkers")) == 2
    totals = {key: int(suites.attrib[key]) for key in ("tests", "failures", "errors", "skipped")}
    assert totals == {"tests": 9, "failures": 3, "errors": 2, "skipped": 1}


def test_messages_and_figures_are_in_the_cases(suites: ElementTree.Element) -> None:
    components = cases(suites, ".components")
    failure = components["evaluator", "unet"].find("failure")
    assert failure is not None
    assert failure.attrib["message"] == "3 non-finite values"
    properties = components["evaluator", "text_encoder"].iter("property")
    values = {one.attrib["name"]: one.attrib["value"] for one in properties}
    assert float(values["psnr_db"]) == 71.25
    assert float(values["needed_db"]) == 60.0
    assert float(components["evaluator", "text_encoder"].attrib["time"]) == pytest.approx(0.1)


def test_text_that_xml_does_not_allow_is_replaced() -> None:
    report = validation()
    broken = replace(report.components[2], reason="bell \x07 and <tag> & \ufffe")
    text = junit(replace(report, components=(broken,)).to_json())
    error = next(ElementTree.fromstring(text).iter("error"))
    assert error.attrib["message"] == "bell \ufffd and <tag> & \ufffd"


def test_markdown_tables_are_whole() -> None:
    text = markdown(validation().to_json())
    lines = text.splitlines()
    tables = [line for line in lines if line.startswith("|")]
    widths = {line: line.replace("\\|", "").count("|") for line in tables}
    start = None
    for line in lines:
        if not line.startswith("|"):
            start = None
        elif start is None:
            start = widths[line]
        else:
            assert widths[line] == start, line
    for expected in (
        "## shapes-64 for ios: **failed**",
        "| Text encoder | evaluator | 71.2 dB | 60.0 dB | 1.50e-03 | 0 | passed |",
        "| UNet | evaluator | – | 60.0 dB | – | 3 | **failed**: 3 non-finite values |",
        "**error**: RuntimeError: \\<boom\\>",
        "the caption is no longer obeyed: 1 objects, not 2",
        "| UNet | mid.attn1 | 7.00e+04 | prompt 1, step 1 | overflows |",
        "Some checks were not run",
    ):
        assert expected in text, expected
