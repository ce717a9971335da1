"""What is known about each device, with its source, and which forms of a graph suit it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from sdmobile.device_profiles.model import DeviceProfile

__all__ = ["default_profile", "is_profile_file", "list_profiles", "load_profile", "profile_hash", "profile_path"]

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


def is_profile_file(name: str) -> bool:
    """Returns whether a device is named by the path of its TOML file."""
    return name.endswith(".toml")


def profile_path(name: str) -> Path:
    """Returns the file of a device.

    Args:
        name: such as "iphone-15-pro", or the path of a user's TOML file.

    Raises:
        UnsupportedError: no such device.
    """
    if is_profile_file(name):
        return Path(name)
    if name not in list_profiles():
        raise UnsupportedError("the device must be a known one", name, _known(name))
    return _FOLDER / f"{name}.toml"


def load_profile(name: str) -> DeviceProfile:
    """Reads a device profile.

    Args:
        name: such as "iphone-15-pro", or the path of a user's TOML file.

    Raises:
        UnsupportedError: no such device.
        ProfileError: the file is missing, no TOML, or breaks a rule of profiles.
    """
    if is_profile_file(name):
        from sdmobile.device_profiles.profile_file import read_profile

        return read_profile(Path(name))
    return _packaged(profile_path(name))


def device_key(name: str) -> str:
    """Returns a device's name as it can be used from any folder: the absolute path of a user's TOML file."""
    return str(Path(name).absolute()) if is_profile_file(name) else name


def profile_hash(name: str) -> str:
    """Returns the SHA-256 of what a device's profile decides about files: all of it but what describes and predicts.

    Args:
        name: as `load_profile`, which says what it raises.
    """
    import hashlib

    return hashlib.sha256(load_profile(name).deciding().model_dump_json(exclude_none=True).encode()).hexdigest()


@cache
def _packaged(path: Path) -> DeviceProfile:
    from sdmobile.device_profiles.profile_file import read_profile

    return read_profile(path)


def _known(name: str) -> str:
    from difflib import get_close_matches

    begun = [known for known in list_profiles() if name and known.startswith(name.lower())]
    near = begun or get_close_matches(name.lower(), list_profiles(), 1, 0.6)
    guess = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{guess}Known are {', '.join(list_profiles())}; or name a profile of your own: FILE.toml."
