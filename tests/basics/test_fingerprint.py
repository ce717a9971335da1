"""The fingerprint of code and libraries: any file of the package counts but those that are left out."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

import pytest

import sdmobile
from sdmobile.basics.fingerprint import code_hash, deciding_files, library_closure
from sdmobile.reference.recording_cache import LEFT_OUT

_PACKAGE = Path(sdmobile.__file__).parent


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package without its checkpoint."""
    root = tmp_path_factory.mktemp("copy") / "sdmobile"
    return Path(shutil.copytree(_PACKAGE, root, ignore=shutil.ignore_patterns("__pycache__", "shapes-64", "graphs")))


def _changed_hash(package: Path, name: str, left_out: tuple[str, ...] = ()) -> tuple[str, str]:
    """Returns the package's hash as it is, and with one byte of a file changed (or the file made)."""
    before = code_hash.__wrapped__(left_out, package)
    file = package / name
    content = file.read_bytes() if file.exists() else None
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        file.write_bytes((content or b"") + b"#")
        return before, code_hash.__wrapped__(left_out, package)
    finally:
        file.unlink()
        if content is not None:
            file.write_bytes(content)


@pytest.mark.parametrize(
    "name",
    [
        "__init__.py",  # the version is written into every file
        "validate/magnitudes.py",
        "validate/lint/dispatch.py",
        "quantize/fp16_scan.py",
        "device_profiles/model.py",
        "a_new_room/code.py",
        "a_new_room/table.json",
    ],
)
def test_a_changed_byte_of_what_decides_is_another_hash(package: Path, name: str) -> None:
    before, after = _changed_hash(package, name)
    assert before != after
    assert before == code_hash.__wrapped__((), package)


@pytest.mark.parametrize(
    "name",
    [
        "cli/app.py",
        "report/html.py",
        "report/report.html.j2",
        "training/loop.py",
        "web/index.html",
        "prediction/latency.py",
        "device_profiles/galaxy-s23-ultra.toml",
        "quantize/__pycache__/apply.cpython-311.pyc",
    ],
)
def test_a_changed_byte_of_what_is_left_out_is_the_same_hash(package: Path, name: str) -> None:
    before, after = _changed_hash(package, name)
    assert before == after


def test_a_file_that_moved_is_another_hash(package: Path) -> None:
    before = code_hash.__wrapped__((), package)
    old, new = package / "errors.py", package / "mistakes.py"
    old.rename(new)
    after = code_hash.__wrapped__((), package)
    new.rename(old)
    assert before != after


def test_recordings_know_no_phone_but_everything_that_samples(package: Path) -> None:
    before, after = _changed_hash(package, "quantize/apply.py", LEFT_OUT)
    assert before == after
    for name in ("formats/bundle/contracts.py", "reference/sampling.py", "families/relu_attention.py"):
        before, after = _changed_hash(package, name, LEFT_OUT)
        assert before != after, name


def test_every_python_file_is_either_deciding_or_left_out() -> None:
    names = set(deciding_files())
    assert {"errors.py", "exporters/component.py", "reference/magnitudes.py", "basics/fingerprint.py"} <= names
    rooms = {name.split("/")[0] for name in names}
    assert rooms.isdisjoint({"cli", "report", "training", "web", "data"})


def test_the_libraries_of_libraries_count() -> None:
    versions = library_closure(("litert-torch", "no-such-library"))
    assert versions["jax"] == metadata.version("jax")  # nowhere named by sdmobile
    assert versions["torch"] == metadata.version("torch")
    assert "no-such-library" not in versions
    assert "pytest" not in versions
