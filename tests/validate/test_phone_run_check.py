"""Runs on phones in a validation: judged by their figures, one row per component."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sdmobile.formats.bundle.reading import Bundle
from sdmobile.reference.recording import Recording
from sdmobile.validate.checks import ExtraCheck, Status
from sdmobile.validate.phone_run_check import phone_run_checker
from tests.prediction.assessed import sd15
from tests.prediction.test_phone_run import run_document

__all__ = ["sd15"]


def _checked(bundle: Bundle, folder: Path, **changes: Any) -> list[ExtraCheck]:
    file = folder / "run.json"
    file.write_text(json.dumps(run_document(bundle.sha256) | changes))
    return phone_run_checker([file])(bundle, ["unet", "vae_decoder"], Recording())


def test_a_right_run_passes_with_its_figures(sd15: Bundle, tmp_path: Path) -> None:
    (found,) = _checked(sd15, tmp_path)
    assert (found.checker, found.component, found.status) == ("phone run, webgpu float16", "unet", Status.PASSED)
    assert found.place == "qualcomm / adreno-7xx, LiteRT.js 2.5.3, 2026-11-30T10:00:00Z"
    assert found.figures == {"worst_db": 131.5, "median_ms": 700.0}
    assert not found.findings


def test_the_verdict_is_made_here(sd15: Bundle, tmp_path: Path) -> None:
    checks = run_document()["checks"]
    wrong = [check | ({"psnr_db": 20.0} if check["run"] else {}) for check in checks]
    (found,) = _checked(sd15, tmp_path, checks=wrong)
    assert found.status == Status.FAILED
    assert "only the first run is right" in str(found.reason)


def test_a_gpu_of_software_is_no_phone(sd15: Bundle, tmp_path: Path) -> None:
    (found,) = _checked(sd15, tmp_path, adapter={"vendor": "google", "architecture": "swiftshader"})
    assert found.status == Status.PASSED
    assert "made of software" in found.findings[0]


def test_another_bundles_run_and_no_run_at_all_are_errors(sd15: Bundle, tmp_path: Path) -> None:
    (other,) = _checked(sd15, tmp_path, bundle_sha256="0" * 64)
    assert other.status == Status.ERROR
    assert "is of the bundle that is validated" in str(other.reason)
    (tmp_path / "garbage.json").write_text("{")
    for name in ("garbage.json", "missing.json"):
        (found,) = phone_run_checker([tmp_path / name])(sd15, ["unet"], Recording())
        assert found.status == Status.ERROR
    (tmp_path / "run.json").write_text(json.dumps(run_document(sd15.sha256)))
    (absent,) = phone_run_checker([tmp_path / "run.json"])(sd15, ["vae_decoder"], Recording())
    assert absent.status == Status.NOT_RUN
