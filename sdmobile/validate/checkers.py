"""The checkers that `sdmobile validate` asks besides the comparisons of outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdmobile.basics.words import describe
from sdmobile.validate.checks import PREDICTED, Checker, ExtraCheck, Status

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
        phone_runs: files that the page of `sdmobile serve` brought.
    """

    lint: str = "report"
    gpu: str = "off"
    benchmark_model: Path | None = None
    serial: str | None = None
    phone_runs: tuple[Path, ...] = ()

    def checkers(self) -> dict[str, Checker]:
        """Returns the checkers by name."""
        chosen: dict[str, Checker] = {}
        if self.lint != "off":
            chosen["lint"] = lint_checker(self.lint == "fail")
        if self.gpu != "off":
            chosen["gpu"] = gpu_checker(self.gpu)
        if self.benchmark_model is not None:
            from sdmobile.validate.phone import phone_checker

            chosen["adb"] = phone_checker(self.benchmark_model, self.serial)
        if self.phone_runs:
            from sdmobile.validate.phone_run_check import phone_run_checker

            chosen["phone run"] = phone_run_checker(self.phone_runs)
        return chosen


def run_checkers(
    bundle: Bundle, components: Sequence[str], recording: Recording, checkers: Mapping[str, Checker]
) -> list[ExtraCheck]:
    """Runs checkers one after the other; one that raises becomes an error of its own and hides no other.

    Args:
        bundle: what is checked.
        components: canonical names of what to check.
        recording: the reference's calls.
        checkers: by name.
    """
    checks: list[ExtraCheck] = []
    for name, checker in checkers.items():
        try:
            checks += checker(bundle, components, recording)
        except Exception as error:
            checks.append(ExtraCheck(name, "bundle", Status.ERROR, reason=describe(error)))
    return checks


def lint_checker(fail: bool) -> Checker:
    """Returns the checker that predicts what a phone's runtime says to each file.

    Args:
        fail: whether a predicted refusal fails the validation; else it is a warning.
    """

    def check(bundle: Bundle, components: Sequence[str], _recording: Recording) -> list[ExtraCheck]:
        from sdmobile.device_profiles import default_profile, load_profile
        from sdmobile.lint import limits_of, lint_component
        from sdmobile.lint.dispatch import DEPLOYMENT_TARGET, linted_runtime

        if bundle.target not in ("ios", "android"):
            return []
        profile = load_profile(bundle.device) if bundle.device else default_profile(bundle.target)
        runtime, limits, checks = linted_runtime(profile), limits_of(profile), []
        chosen = [bundle.components[name] for name in components] if runtime is not None else []
        for whole, part in ((one, part) for one in chosen for part in one.chain or (one,)):
            report = lint_component(part, runtime, limits)
            place = f"{PREDICTED}, {part.path.name}" if whole.chain else PREDICTED
            status = Status.PASSED if report.accepted else Status.FAILED if fail else Status.WARNING
            objections = [f for f in report.findings if f.severity != "warning" or f.rule == DEPLOYMENT_TARGET]
            lines = [_finding(finding.op, finding.module, finding.detail) for finding in objections[:_SHOWN]]
            more = len(objections) - _SHOWN
            reason = None if report.accepted else f"{report.verdict}, as predicted" + (f"; {more} more" * (more > 0))
            checks.append(ExtraCheck(f"lint {report.runtime}", whole.name, status, place, reason, tuple(lines)))
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
            return [ExtraCheck("gpu", "bundle", Status.NOT_RUN, reason="the GPU check runs LiteRT files")]
        report = check_bundle_gpu(bundle, recording, COMBINATIONS[ways], components=components)
        return [_gpu_check(result) for result in report.checks]

    return check


def _gpu_check(check: GpuCheck) -> ExtraCheck:
    verdict = check.verdict
    status = Status.PASSED if verdict.passed else Status.FAILED if verdict.failed else Status.NOT_RUN
    reason = None if verdict.passed else ": ".join(filter(None, [verdict.status, verdict.reason]))
    refused = verdict.refused[:_SHOWN]
    lines = [_finding(node.operator, ", ".join(node.modules[:3]) or None, node.reason) for node in refused]
    figures = {f"{name}_s": value for name, value in verdict.seconds.items()}
    if verdict.worst is not None:
        figures["psnr_db"] = verdict.worst.psnr_db
    name = f"gpu {verdict.way} {verdict.precision}"
    place = verdict.adapter or "software GPU of this machine"
    return ExtraCheck(name, check.component, status, place, reason, tuple(lines), figures)


def _finding(operator: str | None, module: str | None, detail: str) -> str:
    where = f" in {module}" if module else ""
    return f"{operator or 'file'}{where}: {detail}"
