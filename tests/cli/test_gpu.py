"""`sdmobile gpu-check`: what it prints without a GPU, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdmobile.basics.metrics import Metrics
from sdmobile.cli.app import run
from sdmobile.validate.gpu import bundle as gpu_bundle
from sdmobile.validate.gpu import places
from sdmobile.validate.gpu.bundle import GpuCheck, GpuReport
from sdmobile.validate.gpu.verdict import GpuStatus, GpuVerdict, RefusedOperator
from tests.validate.gpu.models import Plain, write_case


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("missing",), 4, "a bundle is a folder"),
        (("note.txt",), 5, "the GPU check reads LiteRT files"),
        (("short.tflite",), 5, "the GPU check reads"),
    ],
)
def test_what_is_refused(
    arguments: tuple[str, ...],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("note.txt").write_text("no model")
    Path("short.tflite").write_bytes(b"\x1c\0\0\0TFL3")
    assert run(["gpu-check", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


def test_an_unknown_way_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gpu-check", "missing", "--way", "phone"]) == 2
    assert "browser, wheel, both" in capsys.readouterr().err


def test_only_bundles_for_android_and_their_components(onnx_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gpu-check", str(onnx_bundle)]) == 5
    assert "takes bundles for Android" in capsys.readouterr().err


def test_a_bare_machine_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(places.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setenv(places.BROWSER_VARIABLE, str(tmp_path / "no-such-browser"))
    case = write_case(tmp_path, "plain", Plain(), (1, 4, 16, 16))
    capsys.readouterr()  # what the converter said
    assert run(["gpu-check", str(case.path), "--way", "both", "--json"]) == 8
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert (data["schema_version"], data["kind"], data["passed"]) == (1, "sdmobile-gpu-check", False)
    assert [(c["way"], c["precision"], c["status"]) for c in data["checks"]] == [
        ("browser", "float32", "not run"),
        ("wheel", "float32", "not run"),
        ("wheel", "float16", "not run"),
    ]
    assert all(check["missing"] for check in data["checks"])
    assert captured.err.count("not run: ") == 3


def test_a_refusal_names_operator_and_module_and_has_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = RefusedOperator("BROADCAST_TO", "not supported", 1, ("mid_block.attentions.0",))
    verdicts = (
        GpuVerdict("browser", "float32", GpuStatus.ACCEPTED, worst=Metrics(81.25, 80.0, 0.1, 1.0, 0), samples=1),
        GpuVerdict("wheel", "float16", GpuStatus.REJECTED, "BROADCAST_TO: not supported", refused=(refused,)),
    )
    report = GpuReport(tuple(GpuCheck("unet", "unet.tflite", "litert", verdict) for verdict in verdicts))
    monkeypatch.setattr(gpu_bundle, "check_tflite", lambda *_: report)
    file = tmp_path / "unet.tflite"
    file.write_bytes(b"")
    assert run(["gpu-check", str(file), "--way", "both"]) == 3
    captured = capsys.readouterr()
    rows = [line.split() for line in captured.out.splitlines() if line.strip().startswith("unet")]
    assert [row[3] for row in rows] == ["accepted", "rejected"]
    assert "81.2" in rows[0]
    assert captured.err == ("unet (wheel, float16): rejected: BROADCAST_TO: not supported [mid_block.attentions.0]\n")
