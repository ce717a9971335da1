"""A module that is not installed is told with the extra that brings it."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from sdmobile.basics.libraries import is_installed, missing_library
from sdmobile.cli.app import run
from sdmobile.errors import EXIT_MISSING, EXIT_UNEXPECTED

# Where a module's distribution has another name.
_NAMES = {"PIL": "pillow", "litert_torch": "litert-torch", "ai_edge_litert": "ai-edge-litert"}


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("torch.nn", "torch"),
        ("diffusers", "torch"),
        ("transformers.models", "torch"),
        ("scipy.ndimage", "torch"),
        ("PIL", "torch"),
        ("coremltools.proto", "ios"),
        ("litert_torch", "android"),
        ("ai_edge_litert.tools", "android"),
        ("onnx", "onnx"),
        ("accelerate", "train"),
        ("peft", "train"),
    ],
)
def test_the_extra_is_the_one_that_states_it(module: str, extra: str) -> None:
    error = missing_library(ModuleNotFoundError("no", name=module))
    assert error is not None
    assert error.fix == f"Run: pip install 'sdmobile[{extra}]'"
    root = module.partition(".")[0]
    stated = [Requirement(text) for text in metadata.requires("sdmobile") or ()]
    (found,) = [one for one in stated if one.name == _NAMES.get(root, root)]
    assert found.marker is not None
    assert found.marker.evaluate({"extra": extra})
    assert not found.marker.evaluate({"extra": ""})


def test_a_module_of_nobody_is_a_fault_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert missing_library(ModuleNotFoundError("no", name="sdmobile.nothing")) is None
    assert not is_installed("nobodys_module.part")
    assert is_installed("numpy")


@pytest.mark.parametrize(
    ("name", "code"), [("diffusers.models", EXIT_MISSING), ("nobodys_module", EXIT_UNEXPECTED)], ids=["extra", "nobody"]
)
def test_a_command_ends_with_its_exit_code(
    name: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(*_: object) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("sdmobile.cli.app.app", lambda *_, **__: absent())
    assert run(["devices"]) == code
    assert ("pip install 'sdmobile[torch]'" in capsys.readouterr().err) is (code == EXIT_MISSING)


def test_the_base_installation_imports_nothing_heavy() -> None:
    program = (
        "import sys, sdmobile.cli.app; print([n for n in ('torch', 'scipy', 'PIL', 'diffusers') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
