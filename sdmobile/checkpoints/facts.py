"""What the shapes of a component's tensors say about its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdmobile.checkpoints.headers import TensorInfo


def shapes_of(tensors: Mapping[str, TensorInfo]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each tensor by name."""
    return {name: info.shape for name, info in tensors.items()}


def correct(component: str, config: dict[str, Any], derived: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns the configuration with what the tensors determine, and a note per contradiction."""
    corrected = dict(config)
    notes: list[str] = []
    for key, value in derived.items():
        stated = config.get(key)
        if _same(stated, value):
            continue
        corrected[key] = value
        if stated is not None:
            notes.append(f"{component}: config says {key} = {stated}, the tensors say {value}; the tensors were used")
    return corrected, notes


def _same(stated: Any, derived: Any) -> bool:
    if isinstance(derived, list) and isinstance(stated, int):
        return all(item == stated for item in derived)
    if isinstance(derived, int) and isinstance(stated, (list, tuple)):
        return all(item == derived for item in stated)
    return (list(stated) if isinstance(stated, tuple) else stated) == derived
