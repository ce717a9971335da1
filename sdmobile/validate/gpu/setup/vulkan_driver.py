"""Finds or fetches lavapipe, the software Vulkan driver of Mesa 25 or newer.

Older Mesa lacks what the accelerator's shaders index (`shaderSampledImageArrayDynamicIndexing` is false in 22.3). A new
enough driver of the system is used as it is. Otherwise the packages are downloaded with the system's own apt, from the
archive that the system is configured for and its backports, and unpacked into a folder: nothing is installed, and root
is not needed.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

from sdmobile.basics.scratch import put_in_place, scratch_beside
from sdmobile.errors import MissingDependencyError
from sdmobile.validate.gpu import places
from sdmobile.validate.gpu.commands import run_quietly
from sdmobile.validate.gpu.places import VulkanDriver
from sdmobile.validate.gpu.setup.apt_sources import distribution_source, os_release, read_sources, with_backports
from sdmobile.validate.gpu.vulkan import device_of

LEAST_MESA = 25
_PACKAGES = ("mesa-vulkan-drivers", "libvulkan1")
_MANIFESTS = ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d")
_OS_RELEASE = Path("/etc/os-release")
_VERSION = re.compile(r"^llvmpipe Mesa ((\d+)\.[^ ]*)")
_FIX = f"Install Mesa {LEAST_MESA} or newer with its software Vulkan driver (lavapipe) and libvulkan1, then run again"


def install_driver(apt_folder: Path = Path("/etc/apt")) -> str:
    """Makes sure that there is a driver that works, and returns a line about it.

    Args:
        apt_folder: apt's configuration.

    Raises:
        MissingDependencyError: there is none and it cannot be fetched.
    """
    if not sys.platform.startswith("linux"):
        raise MissingDependencyError("the wheel way needs Linux", sys.platform, "Use the browser way here")
    present = places.find_driver()
    if present is not None and _mesa(present) is not None:
        return f"Mesa {present.version} is set up"
    runtime = places.gpu_home() / "runtime"
    runtime.mkdir(parents=True, exist_ok=True, mode=0o700)
    own = _system_driver(runtime)
    if own is not None:
        own.save()
        return f"Mesa {own.version} of this system is used"
    driver = _fetch(runtime, apt_folder)
    driver.save()
    return f"Mesa {driver.version} unpacked below {places.gpu_home()}"


def _mesa(driver: VulkanDriver) -> str | None:
    """Returns the Mesa version that a driver states when it is loaded, or None if it is too old or does not load."""
    try:
        version = _VERSION.search(device_of(driver).driver)
    except (MissingDependencyError, ValueError):
        return None
    return version[1] if version is not None and int(version[2]) >= LEAST_MESA else None


def _system_driver(runtime: Path) -> VulkanDriver | None:
    for folder in map(Path, _MANIFESTS):
        for manifest in sorted(folder.glob("lvp_icd*.json")):
            version = _mesa(VulkanDriver("", manifest, (), runtime))
            if version is not None:
                return VulkanDriver(version, manifest, (), runtime)
    return None


def _fetch(runtime: Path, apt_folder: Path) -> VulkanDriver:
    """Downloads and unpacks the packages, and checks that the driver loads before it takes its place."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise MissingDependencyError("the wheel way needs a software Vulkan driver", "this system has no apt", _FIX)
    home = places.gpu_home()
    target = home / "mesa"
    with scratch_beside(target) as work:
        root = work / "root"
        for package in _download(work, apt_folder):
            run_quietly(["dpkg-deb", "-x", str(package), str(root)], "unpack a package")
        put_in_place(root, target, overwrite=True)
    driver = _unpacked_driver(target, runtime)
    version = None if driver is None else _mesa(driver)
    if driver is None or version is None:
        shutil.rmtree(target)
        raise MissingDependencyError(f"lavapipe of Mesa {LEAST_MESA} or newer must load", "it does not", _FIX)
    return VulkanDriver(version, driver.manifest, driver.libraries, runtime)


def _download(work: Path, apt_folder: Path) -> list[Path]:
    """Downloads the driver's packages and those it needs that this system lacks; uses lists and caches of its own."""
    release = os_release(_OS_RELEASE.read_text("utf-8"))
    codename = release.get("VERSION_CODENAME", "")
    source = distribution_source(read_sources(apt_folder), codename)
    if source is None:
        value = f"no source of {codename or 'this release'} in {apt_folder}"
        raise MissingDependencyError("apt must be configured for this system's release", value, _FIX)
    backports = release.get("ID") == "debian"
    parts = work / "parts"
    for folder in (parts, work / "lists" / "partial", work / "cache" / "archives" / "partial"):
        folder.mkdir(parents=True)
    text = with_backports(source, codename) if backports else source.stanza(source.suites)
    (parts / "sdmobile.sources").write_text(text, "utf-8")
    settings = {
        "Debug::NoLocking": "1",
        "Dir::State::lists": work / "lists",
        "Dir::Cache": work / "cache",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": parts,
        "APT::Sandbox::User": "root",  # without it apt complains that its own user cannot see the folder
    }
    apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in settings.items())]
    run_quietly([*apt, "update"], "read the lists of the distribution and its backports", fix=_FIX)
    wanted = ["-y", "--no-install-recommends", "--download-only", "--reinstall"]
    wanted += ["-t", f"{codename}-backports"] if backports else []
    run_quietly([*apt, *wanted, "install", *_PACKAGES], "download Mesa's Vulkan drivers", fix=_FIX)
    return sorted((work / "cache" / "archives").glob("*.deb"))


def _unpacked_driver(root: Path, runtime: Path) -> VulkanDriver | None:
    """Writes a manifest with the absolute path of the unpacked library, which the packaged one leaves to the system."""
    library = next(root.rglob("libvulkan_lvp.so"), None)
    packaged = next(root.rglob("lvp_icd*.json"), None)
    if library is None or packaged is None:
        return None
    manifest = json.loads(packaged.read_text("utf-8"))
    manifest["ICD"]["library_path"] = str(library)
    file = root / "lvp_icd.json"
    file.write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    loader = next(root.rglob("libvulkan.so.1"), None)
    folders = dict.fromkeys(path.parent for path in (library, loader) if path is not None)
    return VulkanDriver("", file, tuple(folders), runtime)
