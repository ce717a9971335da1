from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdmobile.basics.metrics import Metrics
from sdmobile.formats.bundle.contracts import Geometry
from sdmobile.formats.bundle.reading import Bundle, BundleComponent
from sdmobile.lint.report import Finding, LintReport
from sdmobile.reference.recording import Recording
from sdmobile.validate.checkers import CheckerChoice, gpu_checker, lint_checker, run_checkers
from sdmobile.validate.checks import ExtraCheck, Status
from sdmobile.validate.gpu import bundle as gpu_bundle
from sdmobile.validate.gpu.verdict import GpuStatus, GpuVerdict, RefusedOperator


def bundle(target: str, device: str | None = None) -> Bundle:
    manifest = {} if device is None else {"device": device}
    fields: dict[str, Any] = {
        "guidance": "batch2",
        "source": {},
        "pipeline": {},
        "manifest": manifest,
        "components": {},
    }
    return Bundle(path=Path("."), target=target, geometry=Geometry(2, 4, 16, 16, 32, 32, 77, 32), **fields)


def test_verdicts_of_the_gpu_join_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    good = Metrics(134.7, 130.0, 1e-6, 1.0, 0)
    refused = RefusedOperator("BROADCAST_TO", "Operation is not supported.", 2, ("mid_block.attentions.0",))
    verdicts = (  # one of each kind
        GpuVerdict("browser", "float32", GpuStatus.ACCEPTED, adapter="swiftshader", worst=good, seconds={"first": 5.5}),
        GpuVerdict("wheel", "float16", GpuStatus.REJECTED, "54 of 91 nodes", refused=(refused,)),
        GpuVerdict("wheel", "float32", GpuStatus.CRASHED, "the process was killed", signal="SIGSEGV"),
        GpuVerdict("wheel", "float32", GpuStatus.NOT_RUN, "no Vulkan driver", missing="Mesa"),
    )
    checks = tuple(gpu_bundle.GpuCheck("unet", "unet.tflite", "torch", verdict) for verdict in verdicts)
    monkeypatch.setattr(gpu_bundle, "check_bundle_gpu", lambda *_, **__: gpu_bundle.GpuReport(checks))
    found = gpu_checker("both")(bundle("android"), ["unet"], Recording())
    assert [check.status for check in found] == ["passed", "failed", "failed", "not run"]
    assert (found[0].checker, found[0].place) == ("gpu browser float32", "swiftshader")
    assert found[0].figures == {"first_s": 5.5, "psnr_db": 134.7}
    assert found[1].failure == (
        "rejected: 54 of 91 nodes; BROADCAST_TO in mid_block.attentions.0: Operation is not supported."
    )
    assert found[3].reason == "not run: no Vulkan driver"


def test_only_android_files_are_run_on_the_gpu() -> None:
    (check,) = gpu_checker("both")(bundle("ios"), [], Recording())
    assert check.status == "not run"


def test_files_for_a_cpu_are_not_linted_for_a_gpu() -> None:
    assert lint_checker(fail=True)(bundle("android", "android-cpu"), ["unet"], Recording()) == []
    with pytest.raises(KeyError, match="unet"):
        lint_checker(fail=True)(bundle("android"), ["unet"], Recording())


def test_every_file_of_a_component_in_chunks_is_linted(monkeypatch: pytest.MonkeyPatch) -> None:
    def linted(part: BundleComponent, *_: object) -> LintReport:
        bad = (Finding("refused", "rank", "rank 5", "", ""),) if part.path.name == "unet_2.tflite" else ()
        return LintReport(str(part.path), "ml-drift", "", 1, bad)

    monkeypatch.setattr("sdmobile.lint.lint_component", linted)
    contract: Any = None
    parts = tuple(BundleComponent("unet", Path(f"unet_{number}.tflite"), contract, {}) for number in (1, 2))
    chunked = replace(bundle("android"), components={"unet": replace(parts[0], chain=parts)})
    found = lint_checker(fail=True)(chunked, ["unet"], Recording())
    assert [(check.component, check.status) for check in found] == [("unet", Status.PASSED), ("unet", Status.FAILED)]
    assert [check.place for check in found] == [f"prediction, unet_{number}.tflite" for number in (1, 2)]


def test_a_checker_that_raises_hides_no_other() -> None:
    def broken(*_: object) -> list[ExtraCheck]:
        raise RuntimeError("no driver")

    def fine(*_: object) -> list[ExtraCheck]:
        return [ExtraCheck("fine", "unet", Status.PASSED)]

    found = run_checkers(bundle("android"), ["unet"], Recording(), {"broken": broken, "fine": fine})
    assert [(check.checker, check.status) for check in found] == [("broken", "error"), ("fine", "passed")]
    assert found[0].failure == "RuntimeError: no driver"


def test_what_is_asked_follows_the_choice(tmp_path: Path) -> None:
    program = tmp_path / "benchmark_model"
    program.write_bytes(b"")
    assert list(CheckerChoice().checkers()) == ["lint"]
    assert list(CheckerChoice("off").checkers()) == []
    assert list(CheckerChoice("fail", "browser", program).checkers()) == ["lint", "gpu", "adb"]
