"""Validation results as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from sdmobile.basics import words
from sdmobile.validate.checks import Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from sdmobile.basics.metrics import Metrics
    from sdmobile.reference.overflow import OverflowScan
    from sdmobile.validate.checks import ComponentCheck, ExtraCheck, TrajectoryCheck
    from sdmobile.validate.results import ValidationReport

_LEFT = ("component", "prompt", "run by", "result", "checker", "where", "figures", "module", "inputs", "float16")
_WRAPS = ("prompt", "figures", "module", "inputs")


def tables(report: ValidationReport) -> Iterator[RenderableType]:
    """Yields the component table, the picture table, and why something was not run."""
    yield component_table(report.components, report.target)
    yield picture_table(report.trajectories)
    if report.extras:
        yield extras_table(report.extras)
    if any(scan.peaks for scan in report.overflow):
        yield overflow_table(report.overflow)
    elif report.overflow:
        yield Text("no value of the float32 reference comes near the largest float16 number")
    for check in report.extras:
        if check.status == Status.WARNING:
            yield Text(f"warning: {check.name}: {check.failure}")
    for reason in dict.fromkeys(check.reason for check in report.checks if check.status == Status.NOT_RUN):
        yield Text(f"not run: {reason}")


def component_table(checks: Sequence[ComponentCheck], target: str) -> Table:
    """Returns one row per component and runtime with the worst figures over the recorded inputs."""
    table = _table(
        f"{target}: components against float32 PyTorch, worst of the recorded inputs",
        ("component", "run by", "inputs", "PSNR", "SNR", "max |Δ|", "cosine", "NaN/inf", "result"),
    )
    for check in checks:
        row = (check.component, check.runtime, str(len(check.samples)), *_figures(check.worst))
        table.add_row(*map(Text, row), _result(check.status))
    return table


def picture_table(checks: Sequence[TrajectoryCheck]) -> Table:
    """Returns one row per prompt and runtime."""
    table = _table(
        "whole pictures, same seed",
        ("prompt", "seed", "run by", "PSNR", "SSIM", "lowest latent", "NaN/inf", "result"),
    )
    for check in checks:
        row = (
            check.prompt,
            str(check.seed),
            check.runtime,
            words.decibels(check.image_psnr_db),
            words.ssim(check.image_ssim),
            words.decibels(words.lowest(check.latent_psnr_db)),
            str(check.non_finite) if check.latent_psnr_db else words.UNKNOWN,
        )
        table.add_row(*map(Text, row), _result(check.status))
    return table


def extras_table(checks: Sequence[ExtraCheck]) -> Table:
    """Returns one row per component and checker that compares no outputs."""
    table = _table("other checkers", ("component", "checker", "where", "figures", "result"))
    for check in checks:
        figures = ", ".join(f"{name} {words.figure(value)}" for name, value in check.figures.items())
        row = (check.component, check.checker, check.place, figures or words.UNKNOWN)
        table.add_row(*map(Text, row), _result(check.status))
    return table


def overflow_table(scans: Sequence[OverflowScan]) -> Table:
    """Returns one row per module whose values come near or beyond the largest float16 number."""
    table = _table(
        "float32 reference against the range of float16", ("component", "module", "largest value", "inputs", "float16")
    )
    for scan in scans:
        for peak in scan.peaks:
            table.add_row(scan.component, peak.module, words.number(peak.max_abs), peak.label, _result(peak.severity))
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.collapse_padding = True
    for name in columns:
        # A prompt may wrap; a figure or a result that is cut off would be worse than a long line.
        table.add_column(name, justify="left" if name in _LEFT else "right", no_wrap=name not in _WRAPS)
    return table


def _figures(worst: Metrics | None) -> tuple[str, ...]:
    if worst is None:
        return (words.UNKNOWN,) * 5
    return (
        words.decibels(worst.psnr_db),
        words.decibels(worst.snr_db),
        words.number(worst.max_abs),
        words.similarity(worst.cosine),
        str(worst.non_finite),
    )


def _result(status: str) -> Text:
    colours = {Status.PASSED: "green", Status.NOT_RUN: "yellow", Status.WARNING: "yellow", "near": "yellow"}
    return Text(status, style=colours.get(status, "red"))
