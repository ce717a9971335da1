"""What ships with the package, and the names that stand for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.errors import UsageError

if TYPE_CHECKING:
    from typing_extensions import Self

BUNDLED = ("shapes-64", "shapes-64-mobile", "shapes-64-dit")
"""Names of the trained checkpoints; the first is every command's default."""
_DATA = Path(__file__).resolve().parent.parent / "data"


def bundled_checkpoint(name: str = BUNDLED[0]) -> Path:
    """Returns the folder of a trained checkpoint that ships with the package; the first is every command's default."""
    return _DATA / name


def bundled_path(path: Path) -> Path:
    """Returns a path as it is, or what ships under that name where there is no such file.

    `shapes-64-mobile` is a checkpoint, `shapes-64-mobile/adapters/silhouette` a control network beside it.
    """
    named = path.parts and path.parts[0] in BUNDLED and ".." not in path.parts
    return _DATA / path if named and not path.exists() else path


@dataclass(frozen=True)
class ScaledPath:
    """A file or folder as a user names it, and how much of what it adds.

    Args:
        path: of the file or folder.
        scale: factor on what it adds.
    """

    path: Path
    scale: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object, for another process."""
        return {"path": str(self.path), "scale": self.scale}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Returns what `to_json` wrote."""
        return cls(Path(data["path"]), float(data["scale"]))


def scaled_path(text: str, what: str) -> tuple[Path, float]:
    """Reads `PATH` or `PATH:scale`; without one, the scale is 1.

    Args:
        text: as a user writes it.
        what: is scaled, for the error.

    Raises:
        UsageError: the scale is no finite number.
    """
    path, colon, scale = text.rpartition(":")
    if not colon or Path(text).exists():
        return _found(text), 1.0
    try:
        number = float(scale)
    except ValueError:
        return Path(text), 1.0  # a colon of the name; if there is no such file, opening it says so
    if not math.isfinite(number):
        raise UsageError(f"the scale of {what} must be a finite number", text, "Write PATH:0.8, or PATH alone for 1")
    return _found(path), number


def _found(text: str) -> Path:
    """Returns a path; one that is said to be here (./owner/name) is not taken for a name on the Hub."""
    return Path(text).absolute() if text.startswith("./") else bundled_path(Path(text))
