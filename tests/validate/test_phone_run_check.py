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


def test_what_is_wrong_beside_the_components_fails_too(sd15: Bundle, tmp_path: Path) -> None:
    """A picture that is not PyTorch's, a tokenizer that errs, an end that came early: no component is at fault."""
    picture = {"sha256": "0" * 64, "psnr_db": 12.0, "passed": False, "png_base64": "iVBORw0KGgo=", "total_seconds": 3.0}
    for changes, words in (
        ({"picture": picture}, "12.0 dB"),
        ({"errors": ["the page's tokenizer gives other identifiers"], "verdict": "failed"}, "tokenizer"),
        ({"verdict": "failed", "reason": "the GPU device was lost"}, "device was lost"),
    ):
        unet, whole = _checked(sd15, tmp_path, **changes)
        assert (unet.component, unet.status) == ("unet", Status.PASSED)
        assert (whole.component, whole.status) == ("bundle", Status.FAILED)
        assert words in str(whole.reason)


def test_a_component_is_not_blamed_for_another_of_a_longer_name(sd15: Bundle, tmp_path: Path) -> None:
    (first,) = run_document()["components"]
    lost = first | {"name": "unet_2", "error": "lost"}
    (found,) = _checked(sd15, tmp_path, components=[first, lost])
    assert (found.component, found.status) == ("unet", Status.PASSED)
