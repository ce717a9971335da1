"""What is installed and what this machine can do, found out without importing anything heavy."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from packaging.requirements import Requirement

PACKAGE = "sdmobile"
CORE = "core"
TORCH = "torch"
_EXTRAS = (TORCH, "ios", "android", "onnx", "gpu", "phone", "train")
_GPU_SETUP = "Run `make gpu-setup`, or `python -m sdmobile.validate.gpu.setup`."


@dataclass(frozen=True)
class Library:
    """One library that sdmobile asks for.

    Args:
        name: as on the package index.
        extra: "core", or the extra that installs it; all bring "torch" with them.
        wanted: tested range, as in sdmobile's own metadata.
        installed: version, None where it is not installed.
        in_range: whether that version is in the tested range.
    """

    name: str
    extra: str
    wanted: str
    installed: str | None
    in_range: bool

    @property
    def fix(self) -> str | None:
        """The command that helps, None where nothing is wrong."""
        return None if self.installed and self.in_range else f"pip install '{self.name}{self.wanted}'"


@dataclass(frozen=True)
class Ability:
    """One thing that a machine may be able to do, and what to do where it is not."""

    name: str
    available: bool
    detail: str
    fix: str | None = None


@dataclass(frozen=True)
class Machine:
    """Sizes of this machine."""

    system: str
    python: str
    cores: int
    memory_bytes: int
    memory_available_bytes: int
    disk_free_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object."""
        return asdict(self)


def machine(folder: Path) -> Machine:
    """Returns the sizes of this machine.

    Args:
        folder: disk space is that of its file system.
    """
    import psutil

    memory = psutil.virtual_memory()
    # A container may be allowed fewer cores than the computer has.
    allowed = getattr(os, "sched_getaffinity", None)
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        cores=cores,
        memory_bytes=memory.total,
        memory_available_bytes=memory.available,
        disk_free_bytes=shutil.disk_usage(folder).free,
    )


def libraries() -> list[Library]:
    """Returns every library of sdmobile's metadata with the version that is installed here."""
    known: list[Library] = []
    for requirement, extra in _requirements():
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = None
        in_range = version is not None and requirement.specifier.contains(version, prereleases=True)
        known.append(Library(requirement.name, extra, str(requirement.specifier), version, in_range))
    return known


def abilities(installed: list[Library]) -> list[Ability]:
    """Returns what this machine can do.

    Args:
        installed: from libraries().
    """
    return [
        _extra(installed, "inspect, lint and profile", CORE),
        *(_extra(installed, f"export for {extra}", extra) for extra in ("ios", "android", "onnx")),
        _extra(installed, "check Core ML packages (own evaluator)", TORCH),
        _core_ml(),
        _extra(installed, "check .tflite files (LiteRT on the CPU)", "android"),
        _browser(),
        _vulkan(),
        _phone(installed),
        _extra(installed, "train", "train"),
        _cuda(),
        _bundled(),
    ]


def _requirements() -> Iterator[tuple[Requirement, str]]:
    from packaging.requirements import Requirement

    for text in stated_requirements():
        requirement = Requirement(text)
        if requirement.name == PACKAGE:  # an extra that is made of other extras
            continue
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            yield requirement, CORE
            continue
        for extra in _EXTRAS:
            if marker.evaluate({"extra": extra}):
                yield requirement, extra


def stated_requirements() -> list[str]:
    """Returns the requirements of the installed package, or of the source tree that is being run."""
    try:
        return metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return source_requirements(Path(__file__).resolve().parents[2] / "pyproject.toml")


def source_requirements(path: Path) -> list[str]:
    """Returns the requirements that a pyproject.toml states, in the form of a package's metadata; none without it."""
    if not path.is_file():
        return []
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    project = tomllib.loads(path.read_text("utf-8"))["project"]
    optional = project.get("optional-dependencies", {})
    extras = [f'{text} ; extra == "{extra}"' for extra in _EXTRAS for text in optional.get(extra, [])]
    return [*project["dependencies"], *extras]


def _extra(installed: list[Library], name: str, extra: str) -> Ability:
    extras = (CORE,) if extra == CORE else (CORE, TORCH, extra)  # every extra brings PyTorch with it
    needed = [library for library in installed if library.extra in extras]
    missing = [library.name for library in needed if library.installed is None]
    untested = [
        f"{library.name} {library.installed}" for library in needed if library.installed and not library.in_range
    ]
    command = "pip install sdmobile" if extra == CORE else f"pip install 'sdmobile[{extra}]'"
    if missing:
        return Ability(name, False, f"not installed: {', '.join(missing)}", command)
    if untested:
        return Ability(name, True, f"outside the tested range: {', '.join(untested)}", command)
    return Ability(name, True, "installed")


def _phone(installed: list[Library]) -> Ability:
    """Returns whether a phone can be served over the network; by cable it needs nothing."""
    name = "serve a bundle to a phone over the network (--lan)"
    missing = [library.name for library in installed if library.extra == "phone" and library.installed is None]
    if missing:
        return Ability(name, False, f"not installed: {', '.join(missing)}", "pip install 'sdmobile[phone]'")
    return Ability(name, True, "installed")


def _core_ml() -> Ability:
    name = "run Core ML itself"
    if platform.system() == "Darwin":
        return Ability(name, True, f"macOS {platform.mac_ver()[0]}")
    return Ability(name, False, "needs macOS; the evaluator stands in for it", "Run `sdmobile validate` on a Mac too.")


def _browser() -> Ability:
    from sdmobile.validate.gpu import places

    name = "GPU check in a browser (WebGPU)"
    browser = places.find_browser()
    if browser is None:
        return Ability(name, False, "no Chromium found", _GPU_SETUP)
    if not places.page_is_built():
        return Ability(name, False, f"{browser}; the page for it is not built", _GPU_SETUP)
    return Ability(name, True, str(browser))


def _vulkan() -> Ability:
    from sdmobile.validate.gpu import places

    name = "GPU check on Vulkan"
    driver = places.find_driver()
    if driver is None:
        return Ability(name, False, "no software Vulkan driver is set up", _GPU_SETUP)
    return Ability(name, True, f"Mesa {driver.version}")


def _cuda() -> Ability:
    path = shutil.which("nvidia-smi")
    return Ability("train on a GPU", path is not None, path or "no NVIDIA driver found; training uses the CPU")


def _bundled() -> Ability:
    from sdmobile.checkpoints.bundled import bundled_checkpoint

    name, path = "use the bundled checkpoint", bundled_checkpoint()
    if (path / "model_index.json").is_file():
        return Ability(name, True, path.name)
    return Ability(name, False, f"{path} is missing", "Install sdmobile again, or give a CHECKPOINT to each command.")
