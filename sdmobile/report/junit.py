"""Validation results as JUnit XML, which continuous integration systems show as tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

# Characters that XML 1.0 does not allow at all (section 2.2), not even as references.
_FORBIDDEN = dict.fromkeys((*range(0, 9), 11, 12, *range(14, 32), 65534, 65535), "�")


def junit(validation: Mapping[str, Any]) -> str:
    """Writes one test case per check: a failure is below its threshold, an error could not be computed.

    Args:
        validation: `ValidationReport.to_json()`.

    Returns:
        An XML document: one suite for components, one for pictures, one for other checkers. Figures are properties of
        the test cases, so that a system that keeps them can plot them.
    """
    root = ElementTree.Element("testsuites", name=f"sdmobile validate, {validation['target']}")
    prefix = f"{validation['source'].get('name', 'bundle')}.{validation['target']}"
    suites = {
        "components": [_component(check) for check in validation["components"]],
        "images": [_image(check) for check in validation["trajectories"]],
        "checkers": [_extra(check) for check in validation["extras"]],
    }
    for name, cases in suites.items():
        if cases:
            _suite(root, f"{prefix}.{name}", cases)
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in root)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


_Case = tuple[str, str, Mapping[str, Any], dict[str, Any], float]  # class, name, check, figures, seconds


def _component(check: Mapping[str, Any]) -> _Case:
    figures = {**(check["worst"] or {}), "needed_db": check["needed_db"]}
    return check["runtime"], check["component"], check, figures, sum(s["seconds"] for s in check["samples"])


def _image(check: Mapping[str, Any]) -> _Case:
    names = ("image_psnr_db", "image_ssim", "non_finite", "needed_db")
    figures = {name: check[name] for name in names}
    return check["runtime"], f"seed {check['seed']}: {check['prompt']}", check, figures, check["seconds"]


def _extra(check: Mapping[str, Any]) -> _Case:
    return check["checker"], check["component"], check, {**check["figures"], "place": check["place"]}, 0.0


def _suite(root: ElementTree.Element, name: str, cases: list[_Case]) -> None:
    suite = ElementTree.SubElement(root, "testsuite", name=_clean(name))
    for runtime, what, check, figures, seconds in cases:
        case = ElementTree.SubElement(
            suite, "testcase", classname=_clean(f"{name}.{runtime}"), name=_clean(what), time=f"{seconds:.3f}"
        )
        properties = ElementTree.SubElement(case, "properties")
        for key, value in figures.items():
            if value is not None:
                ElementTree.SubElement(properties, "property", name=key, value=_clean(str(value)))
        _outcome(case, check)
    statuses = [check["status"] for _, _, check, _, _ in cases]
    counted = {"failures": "failed", "errors": "error", "skipped": "not run"}
    suite.set("tests", str(len(cases)))
    for key, status in counted.items():
        suite.set(key, str(statuses.count(status)))
    suite.set("time", f"{sum(case[4] for case in cases):.3f}")


def _outcome(case: ElementTree.Element, check: Mapping[str, Any]) -> None:
    tag = {"failed": "failure", "error": "error", "not run": "skipped"}.get(check["status"])
    if tag is not None:
        message = check.get("failure") or check.get("reason") or check["status"]
        ElementTree.SubElement(case, tag, message=_clean(message))


def _clean(text: str) -> str:
    return text.translate(_FORBIDDEN)
