"""The tiny checkpoint that most tests use."""

from __future__ import annotations

from pathlib import Path

from tests.synthetic import write_checkpoint


def write(folder: Path) -> Path:
    """Writes a Diffusers folder of the Stable Diffusion shape."""
    return write_checkpoint(folder)
