"""A tiny random checkpoint of each family; a new family adds one module, named after it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any


def write_tiny(family: str, folder: Path) -> Path:
    """Writes the tiny checkpoint of a family into a folder."""
    module = import_module(f"tests.families.tiny.{family.replace('-', '_')}")
    return module.write(folder)


def write(family: str, folder: Path, changes: dict[str, dict[str, Any]]) -> Path:
    """Writes the tiny checkpoint of a family of transformers with other configurations, by model."""
    module = import_module(f"tests.families.tiny.{family.replace('-', '_')}")
    return module.write(folder, changes={**changes, "vae": {**module.VAE, **changes.get("vae", {})}})
