"""Put a checkpoint together from its parts, whatever format they came from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sdmobile.checkpoints.facts import correct, shapes_of
from sdmobile.checkpoints.types import Checkpoint, ComponentInfo
from sdmobile.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from sdmobile.checkpoints.headers import TensorInfo
    from sdmobile.families.family import Family, Model


@dataclass(frozen=True)
class Parts:
    """What a format's reader found; the rest of a Checkpoint follows from it."""

    family: Family
    path: Path
    name: str
    format: Literal["diffusers", "single_file"]
    components: dict[str, ComponentInfo]
    tokenizer_dir: Path | None
    scheduler_config: dict[str, Any]
    license: str | None
    notes: list[str]
    hashed_files: tuple[Path, ...]
    guidance_scale: float | None = None


def component_info(
    model: Model,
    path: Path,
    class_name: str,
    config: dict[str, Any],
    tensors: dict[str, TensorInfo],
    files: tuple[Path, ...],
) -> tuple[ComponentInfo, list[str]]:
    """Returns what one model is, with its configuration corrected from its tensors, and the corrections."""
    weights = {key: info for key, info in tensors.items() if info.is_float}
    if not weights:
        raise CheckpointError("a component must hold weights", f"{path} has none for {model.name}")
    model.check(class_name, config)
    corrected, notes = correct(model.name, config, model.derive(shapes_of(weights)))
    precisions: Counter[str] = Counter()
    for info in weights.values():
        precisions[info.dtype] += info.elements
    if len(precisions) > 1:
        notes.append(f"{model.name}: weights are stored in several precisions: {', '.join(sorted(precisions))}")
    info = ComponentInfo(
        name=model.name,
        path=path,
        class_name=class_name,
        config=corrected,
        parameters=sum(info.elements for info in weights.values()),
        dtype=precisions.most_common(1)[0][0],
        bytes=sum(info.bytes for info in weights.values()),
        weight_files=files,
    )
    return info, notes


def assemble(parts: Parts) -> Checkpoint:
    """Checks that the models fit each other and returns the checkpoint; raises as `Family.facts`."""
    notes = list(parts.notes)
    configs = {name: info.config for name, info in parts.components.items()}
    facts = parts.family.facts(configs, parts.scheduler_config, notes)
    return Checkpoint(
        **vars(facts),
        family=parts.family,
        path=parts.path,
        name=parts.name,
        format=parts.format,
        components=parts.components,
        tokenizer_dir=parts.tokenizer_dir,
        license=parts.license,
        guidance_scale=parts.guidance_scale,
        notes=tuple(notes),
        hashed_files=parts.hashed_files,
    )
