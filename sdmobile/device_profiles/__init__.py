"""What is known about each device, with its source, and which forms of a graph suit it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from sdmobile.device_profiles.model import DeviceProfile

__all__ = ["default_profile", "list_profiles", "load_profile"]

_FOLDER = Path(__file__).resolve().parent
_DEFAULTS = {"ios": "iphone-14-pro-max", "android": "galaxy-s23-ultra", "onnx": "cpu"}


def list_profiles() -> tuple[str, ...]:
    """Returns the names of the known devices in alphabetical order."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def default_profile(target: str) -> DeviceProfile:
    """Returns the device that an export is for if none is named.

    Raises:
        UnsupportedError: no such target.
    """
    if target not in _DEFAULTS:
        raise UnsupportedError("the target must be a known one", target, f"Known are {', '.join(_DEFAULTS)}.")
    return load_profile(_DEFAULTS[target])


@cache
def load_profile(name: str) -> DeviceProfile:
    """Reads a device profile.

    Args:
        name: such as "iphone-15-pro".

    Raises:
        UnsupportedError: no such device.
    """
    if name not in list_profiles():
        raise UnsupportedError("the device must be a known one", name, f"Known are {', '.join(list_profiles())}.")
    from sdmobile.device_profiles.model import DeviceProfile

    return DeviceProfile.model_validate(_read(_FOLDER / f"{name}.toml"))


def _read(path: Path) -> dict[str, Any]:
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    with path.open("rb") as stream:
        return tomllib.load(stream)
