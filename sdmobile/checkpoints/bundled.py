"""What ships with the package, and the names that stand for it."""

from __future__ import annotations

from pathlib import Path

BUNDLED = ("shapes-64", "shapes-64-mobile")
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
