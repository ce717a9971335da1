"""A missing part is told in words and is never a pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdmobile.cli.app import run
from sdmobile.errors import EXIT_MISSING, EXIT_UNSUPPORTED, MissingDependencyError, UnsupportedError
from sdmobile.validate.gpu import WAYS, check_file
from sdmobile.validate.gpu import places as places
from sdmobile.validate.gpu.setup import page
from sdmobile.validate.gpu.setup.vulkan_driver import install_driver
from sdmobile.validate.gpu.verdict import GpuStatus, Way
from tests.validate.gpu.models import Case


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No Chromium, no built page, no driver."""
    monkeypatch.setenv(places.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setenv(places.BROWSER_VARIABLE, str(tmp_path / "no-such-browser"))
    return tmp_path


@pytest.mark.parametrize("way", WAYS)
def test_verdict_says_what_is_missing_and_what_to_do(bare_machine: Path, plain: Case, way: Way) -> None:
    verdict = check_file(plain.path, plain.inputs, plain.expected, way=way)
    assert verdict.status == GpuStatus.NOT_RUN
    assert not verdict.passed
    assert not verdict.failed
    assert verdict.missing
    assert "make gpu-setup" in (verdict.reason or "")


def test_command_ends_with_the_code_for_missing_parts(
    bare_machine: Path, plain: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["gpu-check", str(plain.path), "--way", "both"]) == EXIT_MISSING
    assert "there is no Chromium" in capsys.readouterr().err


def test_page_of_other_sources_counts_as_missing(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = places.page_folder()
    folder.mkdir(parents=True)
    for name in places.PAGE_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    (folder / "sources.sha256").write_text(places.sources_hash())
    assert places.page_is_built()
    (folder / "sources.sha256").write_text("of another version")
    assert not places.page_is_built()


def test_driver_whose_files_are_gone_counts_as_missing(bare_machine: Path) -> None:
    runtime = bare_machine / "runtime"
    runtime.mkdir()
    manifest = bare_machine / "lvp_icd.json"
    manifest.write_text("{}")
    places.VulkanDriver("25.0.7", manifest, (), runtime).save()
    found = places.find_driver()
    assert found is not None
    assert found.environment()["VK_DRIVER_FILES"] == str(manifest)
    manifest.unlink()
    assert places.find_driver() is None


def test_set_up_without_npm_says_so(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingDependencyError, match="npm must be installed"):
        page.build_page()
    assert list(places.gpu_home().iterdir()) == []


def test_set_up_does_not_install_a_browser_without_root(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(places.BROWSER_VARIABLE)
    monkeypatch.setattr(places, "BROWSERS", ("no-such-browser",))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(MissingDependencyError, match="As root: `apt-get install chromium`"):
        page.install_browser()


def test_set_up_without_an_apt_source_says_so(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdmobile.validate.gpu.setup.vulkan_driver._MANIFESTS", ())
    (bare_machine / "sources.list").write_text("# deb nothing here\n")
    with pytest.raises(MissingDependencyError, match=r"no (source of|apt)|has no apt"):
        install_driver(bare_machine)
    assert places.find_driver() is None


def test_other_files_are_refused(bare_machine: Path) -> None:
    file = bare_machine / "weights.tflite"
    file.write_bytes(b"not a flatbuffer")
    with pytest.raises(UnsupportedError, match="reads LiteRT files"):
        check_file(file)
    assert run(["gpu-check", str(file)]) == EXIT_UNSUPPORTED


def test_damaged_files_are_told_as_such(bare_machine: Path, plain: Case) -> None:
    file = bare_machine / "cut.tflite"
    content = plain.path.read_bytes()
    for length in (9, 100, len(content) // 2):
        file.write_bytes(content[:length])
        with pytest.raises(UnsupportedError, match="damaged"):
            check_file(file)
