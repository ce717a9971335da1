"""`sdmobile doctor`: versions against the package's own metadata, abilities, and the fix for what is missing."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sdmobile.cli import doctor_checks
from sdmobile.cli.doctor import doctor
from sdmobile.cli.doctor_checks import CORE, Library, abilities, libraries, machine
from sdmobile.errors import EXIT_MISSING

app = typer.Typer()
app.command()(doctor)


def test_json_is_all_of_stdout() -> None:
    result = CliRunner().invoke(app, ["--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    torch = next(library for library in found["libraries"] if library["name"] == "torch")
    assert torch["installed"] == metadata.version("torch")
    assert torch["extra"] == CORE
    assert found["machine"]["memory_bytes"] > 0


def test_table_for_people() -> None:
    result = CliRunner().invoke(app, [])
    for text in ("python", "coremltools", "export for ios", "run Core ML itself", "GPU check"):
        assert text in result.stdout


def test_ranges_come_from_the_project_itself() -> None:
    by_name = {library.name: library for library in libraries()}
    assert {library.extra for library in by_name.values()} == {CORE, "ios", "android", "onnx", "gpu", "train"}
    assert "sdmobile" not in by_name
    source = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for library in by_name.values():
        assert all(part in source for part in library.wanted.split(","))


def test_requirements_are_split_by_extra_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    stated = [
        "torch>=2",
        'tomli>=2; python_version < "3.0"',
        'accelerate>=1; extra == "train"',
        'sdmobile[ios]; extra == "all"',
    ]
    monkeypatch.setattr(doctor_checks, "_stated_requirements", lambda: stated)
    assert [(library.name, library.extra) for library in libraries()] == [("torch", CORE), ("accelerate", "train")]


def test_source_tree_and_metadata_give_the_same() -> None:
    found = doctor_checks._source_requirements(Path(__file__).parents[2] / "pyproject.toml")
    assert any(text.startswith("torch") for text in found)
    assert any('extra == "ios"' in text for text in found)


def _ability(found: list[Library], name: str) -> doctor_checks.Ability:
    return next(ability for ability in abilities(found) if ability.name == name)


def test_what_is_missing_comes_with_its_fix() -> None:
    core = Library("torch", CORE, "<2.14,>=2.13", "2.13.0", True)
    missing = Library("coremltools", "ios", "<10,>=9", None, False)
    old = Library("onnx", "onnx", ">=1.23", "1.10", False)
    assert missing.fix == "pip install 'coremltools<10,>=9'"
    assert core.fix is None
    ios = _ability([core, missing, old], "export for ios")
    assert (ios.available, ios.fix) == (False, "pip install 'sdmobile[ios]'")
    assert ios.detail == "not installed: coremltools"
    onnx = _ability([core, missing, old], "export for onnx")
    assert (onnx.available, onnx.detail) == (True, "outside the tested range: onnx 1.10")


def test_a_missing_core_library_has_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_checks, "_stated_requirements", lambda: ["no-such-library-here>=1"])
    result = CliRunner().invoke(app, [])
    assert result.exit_code == EXIT_MISSING
    assert "missing" in result.stdout


def test_core_ml_needs_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert not _ability([], "run Core ML itself").available
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert _ability([], "run Core ML itself").available


def test_parts_of_the_gpu_check_are_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from sdmobile.validate.gpu import places

    browser, vulkan = "GPU check in a browser (WebGPU)", "GPU check on Vulkan"
    monkeypatch.setenv(places.HOME_VARIABLE, str(tmp_path))
    monkeypatch.setenv(places.BROWSER_VARIABLE, str(tmp_path / "none"))
    for name in (browser, vulkan):
        assert not _ability([], name).available
        assert "make gpu-setup" in (_ability([], name).fix or "")
    monkeypatch.setenv(places.BROWSER_VARIABLE, "/bin/sh")
    assert "page for it is not built" in _ability([], browser).detail
    manifest = tmp_path / "lvp_icd.json"
    manifest.write_text("{}")
    places.VulkanDriver("25.0.7", manifest, (), tmp_path).save()
    assert _ability([], vulkan).detail == "Mesa 25.0.7"


def test_machine(tmp_path: Path) -> None:
    here = machine(tmp_path)
    assert here.cores >= 1
    assert 0 < here.memory_available_bytes <= here.memory_bytes
    assert here.disk_free_bytes > 0
