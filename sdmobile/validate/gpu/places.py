"""Where the parts of the GPU check lie: Chromium, the built page, the software Vulkan driver."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from sdmobile.basics.files import user_cache, write_json

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER_VARIABLE = "SDMOBILE_CHROMIUM"
HOME_VARIABLE = "SDMOBILE_GPU_HOME"
PAGE_FILES = ("index.html", "main.js", "style.css", "phone.html", "phone.js", "phone.css", "wasm/phone_worker.js")
SETUP = (
    "Run `make gpu-setup`, or `python -m sdmobile.validate.gpu.setup` where sdmobile is installed without its sources"
)


def gpu_home() -> Path:
    """Returns where set-up parts are kept: `$SDMOBILE_GPU_HOME`, else the user's cache folder."""
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        return Path(chosen).resolve()
    return user_cache() / "sdmobile" / "gpu"


def find_browser() -> Path | None:
    """Returns the Chromium to use: `$SDMOBILE_CHROMIUM`, else the first one on the path."""
    chosen = os.environ.get(BROWSER_VARIABLE)
    for name in (chosen,) if chosen else BROWSERS:
        program = shutil.which(name)
        if program:
            return Path(program)
    return None


def page_sources() -> Path:
    """Returns the folder with the page's sources and its lock file."""
    import sdmobile

    return Path(sdmobile.__file__).parent / "web"


def page_folder() -> Path:
    """Returns where the built page lies, or would lie."""
    return gpu_home() / "page"


def page_is_built() -> bool:
    """Whether the built page is there and was made from the present sources."""
    folder = page_folder()
    stamp = folder / "sources.sha256"
    if not all((folder / name).is_file() for name in (*PAGE_FILES, stamp.name)):
        return False
    return stamp.read_text("utf-8").strip() == sources_hash()


def sources_hash() -> str:
    """Returns the SHA-256 over names and bytes of the page's sources."""
    import hashlib

    root = page_sources()
    digest = hashlib.sha256()
    for file in sorted(path for path in root.rglob("*") if path.is_file() and "node_modules" not in path.parts):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


@dataclass(frozen=True)
class VulkanDriver:
    """The software Vulkan driver that was set up.

    Args:
        version: Mesa's version as the package states it.
        manifest: ICD manifest with an absolute library path.
        libraries: folders to search for the loader and its libraries before the system's; empty for the system's Mesa.
        runtime_dir: a writable folder for XDG_RUNTIME_DIR.
    """

    version: str
    manifest: Path
    libraries: tuple[Path, ...]
    runtime_dir: Path

    def environment(self) -> dict[str, str]:
        """Returns the environment variables that make the Vulkan loader offer this driver and no other."""
        variables = {
            "VK_DRIVER_FILES": str(self.manifest),
            "VK_ICD_FILENAMES": str(self.manifest),  # the same for loaders before 1.3.207
            "XDG_RUNTIME_DIR": str(self.runtime_dir),
            "MESA_SHADER_CACHE_DIR": str(self.runtime_dir / "kernels"),  # compiled once: minutes for a large model
        }
        if self.libraries:
            before = os.environ.get("LD_LIBRARY_PATH")
            folders = [str(folder) for folder in self.libraries] + ([before] if before else [])
            variables["LD_LIBRARY_PATH"] = os.pathsep.join(folders)
        return variables

    def save(self) -> None:
        """Writes the description to where `find_driver` reads it."""
        fields = {
            "version": self.version,
            "manifest": str(self.manifest),
            "libraries": [str(folder) for folder in self.libraries],
            "runtime_dir": str(self.runtime_dir),
        }
        write_json(_driver_file(), fields)


def find_driver() -> VulkanDriver | None:
    """Returns the driver that was set up, or None if there is none or its files are gone."""
    try:
        fields = json.loads(_driver_file().read_text("utf-8"))
        driver = VulkanDriver(
            fields["version"],
            Path(fields["manifest"]),
            tuple(Path(folder) for folder in fields["libraries"]),
            Path(fields["runtime_dir"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    there = driver.manifest.is_file() and driver.runtime_dir.is_dir() and all(map(Path.is_dir, driver.libraries))
    return driver if there else None


def _driver_file() -> Path:
    return gpu_home() / "vulkan.json"
