"""What is installed, against the package's own metadata, and what this machine can do."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdmobile.validate import environment
from sdmobile.validate.environment import (
    CORE,
    TORCH,
    Ability,
    Library,
    abilities,
    libraries,
    machine,
    source_requirements,
)
from sdmobile.validate.gpu import places


def test_ranges_come_from_the_project_itself() -> None:
    by_name = {library.name: library for library in libraries()}
    extras = {CORE, TORCH, "ios", "android", "onnx", "gpu", "phone", "train"}
    assert {library.extra for library in by_name.values()} == extras
    assert "sdmobile" not in by_name
    source = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for library in by_name.values():
        assert all(part in source for part in library.wanted.split(","))


def test_requirements_are_split_by_extra_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    stated = [
        "numpy>=2",
        'torch>=2; extra == "torch"',
        'sdmobile[torch]; extra == "train"',
        'tomli>=2; python_version < "3.0"',
        'accelerate>=1; extra == "train"',
        'sdmobile[ios]; extra == "all"',
    ]
    monkeypatch.setattr(environment, "stated_requirements", lambda: stated)
    found = [(library.name, library.extra) for library in libraries()]
    assert found == [("numpy", CORE), ("torch", TORCH), ("accelerate", "train")]


def test_source_tree_and_metadata_give_the_same() -> None:
    found = source_requirements(Path(__file__).parents[2] / "pyproject.toml")
    assert any(text.startswith("torch") and 'extra == "torch"' in text for text in found)
    assert any(text.startswith("numpy") and "extra" not in text for text in found)
    assert any('extra == "ios"' in text for text in found)


def _ability(installed: list[Library], name: str) -> Ability:
    return next(ability for ability in abilities(installed) if ability.name == name)


def test_what_is_missing_comes_with_its_fix() -> None:
    core = Library("numpy", CORE, "<3,>=2.2", "2.4.6", True)
    missing = Library("coremltools", "ios", "<10,>=9", None, False)
    old = Library("onnx", "onnx", ">=1.23", "1.10", False)
    assert missing.fix == "pip install 'coremltools<10,>=9'"
    assert core.fix is None
    ios = _ability([core, missing, old], "export for ios")
    assert (ios.available, ios.fix) == (False, "pip install 'sdmobile[ios]'")
    assert ios.detail == "not installed: coremltools"
    onnx = _ability([core, missing, old], "export for onnx")
    assert (onnx.available, onnx.detail) == (True, "outside the tested range: onnx 1.10")


def test_what_brings_torch_with_it_needs_torch() -> None:
    core, ios = Library("numpy", CORE, "", "2.4.6", True), Library("coremltools", "ios", "", "9.0", True)
    missing = Library("torch", TORCH, "", None, False)
    assert _ability([core, ios, missing], "inspect, lint and profile").available
    export = _ability([core, ios, missing], "export for ios")
    assert (export.available, export.detail, export.fix) == (
        False,
        "not installed: torch",
        "pip install 'sdmobile[ios]'",
    )
    assert _ability([core, missing], "check Core ML packages (own evaluator)").fix == "pip install 'sdmobile[torch]'"


def test_core_ml_needs_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert not _ability([], "run Core ML itself").available
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert _ability([], "run Core ML itself").available


def test_parts_of_the_gpu_check_are_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
