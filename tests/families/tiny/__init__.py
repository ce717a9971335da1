"""A tiny random checkpoint of each family; a new family adds one module, named after it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path


def write_tiny(family: str, folder: Path) -> Path:
    """Writes the tiny checkpoint of a family into a folder."""
    module = import_module(f"tests.families.tiny.{family.replace('-', '_')}")
    return module.write(folder)
