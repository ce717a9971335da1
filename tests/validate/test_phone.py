from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sdmobile.errors import MissingDependencyError, ResourceError, UnsupportedError
from sdmobile.families.contracts import contract_for
from sdmobile.formats.bundle.contracts import Geometry
from sdmobile.formats.bundle.reading import Bundle, BundleComponent
from sdmobile.reference.recording import Recording
from sdmobile.validate.checks import ExtraCheck
from sdmobile.validate.phone import find_phone, parse_benchmark, phone_checker
from tests.families import SD
from tests.validate.phone_fakes import CPU, GPU, calls, write_adb

GEOMETRY = Geometry(2, 4, 16, 16, 32, 32, 77, 32)


def bundle(folder: Path, target: str = "android") -> Bundle:
    contract = contract_for(SD, target, "unet", GEOMETRY)
    file = folder / contract.file_name
    file.write_bytes(b"model")
    component = BundleComponent("unet", file, contract, {})
    fields: dict[str, Any] = {"guidance": "batch2", "source": {}, "pipeline": {}, "manifest": {}}
    return Bundle(path=folder, target=target, geometry=GEOMETRY, components={"unet": component}, **fields)


@pytest.fixture
def adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    write_adb(folder)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def checked(tmp_path: Path, target: str = "android") -> list[ExtraCheck]:
    program = tmp_path / "benchmark_model"
    program.write_bytes(b"program")
    return phone_checker(program)(bundle(tmp_path, target), ["unet"], Recording())


def test_gpu_output_is_read() -> None:
    found = parse_benchmark(GPU.format(graph="m", taken=412, parts=1, how="completely"))
    assert found is not None
    assert (found.init_ms, found.first_ms, found.average_ms) == pytest.approx((1523.5, 61.203, 40.6))
    assert (found.best_ms, found.runs, found.memory_mb) == (pytest.approx(40.125), 5, pytest.approx(73.4102))
    assert (found.delegated, found.nodes, found.partitions) == (412, 412, 1)
    assert found.delegate == "TfLiteGpuDelegateV2"


def test_cpu_output_with_large_numbers_is_read() -> None:
    found = parse_benchmark(CPU.format(graph="m"))
    assert found is not None
    assert (found.average_ms, found.memory_mb) == pytest.approx((2950.34, 138.809))
    assert found.delegate == "TfLiteXNNPackDelegate"


@pytest.mark.parametrize("text", ["", "STARTING!\nLoaded model m\n", "Inference timings in us: Init: x"])
def test_unfinished_output_has_no_figures(text: str) -> None:
    assert parse_benchmark(text) is None


def test_a_file_is_pushed_run_and_removed(tmp_path: Path, adb: Path) -> None:
    cpu, gpu = checked(tmp_path)
    assert (cpu.checker, gpu.checker) == ("adb cpu", "adb gpu")
    digest = sha256(b"program").hexdigest()[:12]
    assert cpu.place == gpu.place == f"Pixel 9 (Android 16, 0A1B2C), benchmark_model {digest}"
    assert (cpu.status, gpu.status) == ("passed", "passed")
    assert gpu.figures["average_ms"] == pytest.approx(40.6)
    assert gpu.figures["delegated_nodes"] == gpu.figures["nodes"] == 412
    lines = calls(adb)
    target = "/data/local/tmp/sdmobile/unet.tflite"
    assert f"-s 0A1B2C push {tmp_path / 'unet.tflite'} {target}" in lines
    runs = [line for line in lines if f"--graph={target}" in line]
    assert [("--use_gpu=true" in line, "--use_xnnpack=true" in line) for line in runs] == [(False, True), (True, False)]
    assert all("--signature_to_run_for=denoise" in line for line in runs)
    assert lines[-1].endswith(f"rm -f {target} 2>&1")


def test_a_graph_that_the_gpu_takes_in_part_fails(tmp_path: Path, adb: Path) -> None:
    write_adb(adb, taken=54, parts=6)
    _, gpu = checked(tmp_path)
    assert (gpu.status, gpu.failure) == ("failed", "the GPU took 54 of 412 nodes, in 6 parts")


def test_falling_back_to_the_cpu_is_no_gpu_run(tmp_path: Path, adb: Path) -> None:
    (adb / "gpu.txt").write_text(CPU.format(graph="m"), "utf-8")
    _, gpu = checked(tmp_path)
    assert gpu.status == "failed"
    assert "fell back to the CPU" in gpu.failure


def test_a_crash_is_told_with_its_last_words(tmp_path: Path, adb: Path) -> None:
    (adb / "gpu.txt").write_text("STARTING!\nSegmentation fault\n", "utf-8")
    cpu, gpu = checked(tmp_path)
    assert (cpu.status, gpu.status) == ("passed", "error")
    assert "Segmentation fault" in str(gpu.reason)


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ("", "adb sees none"),
        ("0A1B2C\tunauthorized\n", "Allow USB debugging"),
        ("0A1B2C\toffline\n", "0A1B2C is offline"),
        ("0A1B2C\tdevice\n3D4E5F\tdevice\n", "--adb-serial"),
    ],
)
def test_no_usable_phone_is_not_run_in_clear_words(tmp_path: Path, adb: Path, devices: str, message: str) -> None:
    write_adb(adb, devices)
    (check,) = checked(tmp_path)
    assert check.status == "not run"
    assert message in str(check.reason)


def test_one_of_several_phones_can_be_named(adb: Path) -> None:
    write_adb(adb, "0A1B2C\tdevice\n3D4E5F\tdevice\n")
    assert find_phone("3D4E5F").serial == "3D4E5F"
    with pytest.raises(ResourceError, match="adb sees 0A1B2C, 3D4E5F"):
        find_phone("nothing")


def test_no_adb_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="platform-tools"):
        find_phone()
    (check,) = checked(tmp_path)
    assert check.status == "not run"
    assert "no `adb` on the PATH" in str(check.reason)


def test_other_bundles_and_missing_programs(tmp_path: Path, adb: Path) -> None:
    (check,) = checked(tmp_path, "onnx")
    assert check.status == "not run"
    with pytest.raises(UnsupportedError, match="benchmark_model for Android"):
        phone_checker(tmp_path / "nowhere")
