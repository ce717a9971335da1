"""Versions of the libraries that decide what is written."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


LIBRARIES = ("torch", "diffusers", "transformers", "coremltools", "litert-torch", "ai-edge-quantizer", "onnx")


def library_versions() -> dict[str, str]:
    """Returns the installed versions of the libraries that a manifest names."""
    versions: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
