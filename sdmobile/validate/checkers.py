"""The checkers that `sdmobile validate` asks besides the comparisons of outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdmobile.validate.extras import PREDICTED, Checker, ExtraCheck
from sdmobile.validate.results import FAILED, NOT_RUN, PASSED, WARNING

if TYPE_CHECKING:
    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.reference.recording import Recording
    from sdmobile.validate.gpu.bundle import GpuCheck

_SHOWN = 5  # findings of one file in a report; `sdmobile lint` lists all


@dataclass(frozen=True)
class CheckerChoice:
    """What a bundle is asked.

    Args:
        lint: "off", "report" (a predicted refusal is a warning) or "fail".
        gpu: "off", "browser", "wheel" or "both".
        benchmark_model: LiteRT's benchmark program for Android, None to leave phones alone.
        serial: which connected phone, None for the only one.
    """

    lint: str = "report"
    gpu: str = "off"
    benchmark_model: Path | None = None
    serial: str | None = None

    def checkers(self) -> dict[str, Checker]:
        """Returns the checkers by name."""
        found: dict[str, Checker] = {}
        if self.lint != "off":
            found["lint"] = lint_checker(self.lint == "fail")
        if self.gpu != "off":
            found["gpu"] = gpu_checker(self.gpu)
        if self.benchmark_model is not None:
            from sdmobile.validate.phone.checker import phone_checker

            found["adb"] = phone_checker(self.benchmark_model, self.serial)
        return found


def lint_checker(fail: bool) -> Checker:
    """Returns the checker that predicts what a phone's runtime says to each file.

    Args:
        fail: whether a predicted refusal fails the validation; else it is a warning.
    """

    def check(bundle: Bundle, components: Sequence[str], _recording: Recording) -> list[ExtraCheck]:
        from sdmobile.lint import device_limits, lint_component
        from sdmobile.lint.dispatch import DEPLOYMENT_TARGET

        if bundle.target not in ("ios", "android"):
            return []
        limits, checks = device_limits(bundle.target, bundle.device), []
        for name in components:
            report = lint_component(bundle.components[name], None, limits)
            status = PASSED if report.accepted else FAILED if fail else WARNING
            objections = [f for f in report.findings if f.severity != "warning" or f.rule == DEPLOYMENT_TARGET]
            lines = [_finding(finding.op, finding.module, finding.detail) for finding in objections[:_SHOWN]]
            more = len(objections) - _SHOWN
            reason = None if report.accepted else f"{report.verdict}, as predicted" + (f"; {more} more" * (more > 0))
            checks.append(ExtraCheck(f"lint {report.runtime}", name, status, PREDICTED, reason, tuple(lines)))
        return checks

    return check


def gpu_checker(ways: str) -> Checker:
    """Returns the checker that runs the files on Google's engine with a software GPU.

    Args:
        ways: "browser", "wheel" or "both".
    """

    def check(bundle: Bundle, components: Sequence[str], recording: Recording) -> list[ExtraCheck]:
        from sdmobile.validate.gpu.bundle import COMBINATIONS, check_bundle_gpu

        if bundle.target != "android":
            return [ExtraCheck("gpu", "bundle", NOT_RUN, reason="the GPU check runs LiteRT files")]
        found = check_bundle_gpu(bundle, recording, COMBINATIONS[ways], components=components)
        return [_gpu_check(one) for one in found.checks]

    return check


def _gpu_check(found: GpuCheck) -> ExtraCheck:
    verdict = found.verdict
    status = PASSED if verdict.passed else FAILED if verdict.failed else NOT_RUN
    reason = None if verdict.passed else ": ".join(filter(None, [verdict.status, verdict.reason]))
    lines = [_finding(one.operator, ", ".join(one.modules[:3]) or None, one.reason) for one in verdict.refused[:_SHOWN]]
    figures = {f"{name}_s": value for name, value in verdict.seconds.items()}
    if verdict.worst is not None:
        figures["psnr_db"] = verdict.worst.psnr_db
    name = f"gpu {verdict.way} {verdict.precision}"
    place = verdict.adapter or "software GPU of this machine"
    return ExtraCheck(name, found.component, status, place, reason, tuple(lines), figures)


def _finding(operator: str | None, module: str | None, detail: str) -> str:
    where = f" in {module}" if module else ""
    return f"{operator or 'file'}{where}: {detail}"
