"""The tiny FLUX.2 [klein] as one that was not distilled."""

from __future__ import annotations

from pathlib import Path

from tests.families.tiny import flux2_klein


def write(folder: Path) -> Path:
    """Writes a Diffusers folder whose index does not say that it was distilled."""
    return flux2_klein.write(folder, {"index": {"is_distilled": False}})
