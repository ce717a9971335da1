"""Validation results as Markdown, for a job's summary or a comment on a change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sdmobile.basics import words


def markdown(validation: Mapping[str, Any]) -> str:
    """Writes the verdict and one table per kind of check.

    Args:
        validation: `ValidationReport.to_json()`.
    """
    verdict = "passed" if validation["passed"] else "failed"
    source, seconds = validation["source"], words.seconds(validation["seconds"])
    left_out = "" if validation["complete"] else " Some checks were not run; they count for nothing."
    parts = [
        f"## {_cell(source.get('name'))} for {validation['target']}: **{verdict}**",
        f"Against float32 PyTorch, checkpoint `{str(source.get('content_hash'))[:12]}`, in {seconds}.{left_out}",
        _section("Components", _components(validation["components"])),
        _section("Pictures", _pictures(validation["trajectories"])),
        _section("Other checkers", _extras(validation["extras"])),
        _section("Beyond float16, in the float32 reference", _overflow(validation["overflow"])),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, table: str) -> str:
    return f"### {title}\n\n{table}" if table else ""


def _components(checks: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for check in checks:
        worst = check["worst"] or {}
        figures = (words.decibels(worst.get("psnr_db")), words.decibels(check["needed_db"]))
        figures += (words.number(worst.get("max_abs")), worst.get("non_finite", words.UNKNOWN))
        rows.append((words.title(check["component"]), check["runtime"], *figures, _result(check)))
    return _table(("component", "run by", "PSNR", "needed", "max \\|Δ\\|", "NaN/inf", "result"), rows)


def _pictures(checks: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for check in checks:
        level, needed = words.decibels(check["image_psnr_db"]), words.decibels(check["needed_db"])
        likeness, growth = words.ssim(check["image_ssim"]), words.growth(check["error_growth"])
        row = (check["prompt"], check["seed"], check["runtime"], level, needed, likeness, growth)
        rows.append((*row, words.caption(check["caption"]), _result(check)))
    columns = ("prompt", "seed", "run by", "PSNR", "needed", "SSIM", "error growth", "caption", "result")
    return _table(columns, rows)


def _extras(checks: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for check in checks:
        figures = ", ".join(f"{name} {words.figure(value)}" for name, value in check["figures"].items())
        title = words.title(check["component"])
        rows.append((title, check["checker"], check["place"], figures or words.UNKNOWN, _result(check)))
    return _table(("component", "checker", "where", "figures", "result"), rows)


def _overflow(scans: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (words.title(scan["component"]), peak["module"], words.number(peak["max_abs"]), peak["label"], peak["severity"])
        for scan in scans
        for peak in scan["peaks"]
    ]
    return _table(("component", "module", "largest value", "where", "float16"), rows)


def _result(check: Mapping[str, Any]) -> str:
    if check["status"] == "passed":
        return "passed"
    why = check.get("failure") or check.get("reason")
    return f"**{check['status']}**" + (f": {why}" if why else "")


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join(["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns), *lines])


def _cell(value: object) -> str:
    """Returns a text that stays inside its cell and is shown as it is."""
    text = " ".join(str(value).split())
    for mark in ("|", "<", ">", "`"):
        text = text.replace(mark, f"\\{mark}")
    return text
