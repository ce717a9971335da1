"""Finds the structure of each component of an export: among those that come with the package, then in the cache."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sdmobile.basics.files import cache_folder
from sdmobile.errors import SdmobileError
from sdmobile.exporters.structures.keys import STREAMED, config_difference, facts_of, file_stem, staleness
from sdmobile.exporters.structures.structure import SUFFIX, Structure, StructureError, read_structure
from sdmobile.families.contracts import contract_for

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint
    from sdmobile.exporters.request import ExportRequest
    from sdmobile.formats.bundle.contracts import Geometry

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "structures"
_log = logging.getLogger("sdmobile.structures")


@dataclass(frozen=True)
class Fit:
    """What was found for one component.

    Args:
        path: where its structure is, or would be kept.
        structure: the one that fits, None if there is none.
        reason: why there is none.
        wanted: whether one is to be made, with the files.
    """

    path: Path
    structure: Structure | None = None
    reason: str | None = None
    wanted: bool = False


def kept_folder() -> Path:
    """Returns where structures are kept that were made on this machine."""
    return cache_folder("structures")


def places() -> tuple[Path, ...]:
    """Returns the folders that hold structures, in the order in which they are asked."""
    return SHIPPED, kept_folder()


def find_structures(
    checkpoint: Checkpoint, request: ExportRequest, device: str, geometry: Geometry, components: Iterable[str]
) -> dict[str, Fit]:
    """Returns, for each component, the structure that fits it, or why none does.

    Args:
        checkpoint: the checkpoint.
        request: what the user asked for.
        device: name of a device profile.
        geometry: the sizes of the export.
        components: canonical names.
    """
    return {name: _fit(checkpoint, request, device, geometry, name) for name in components}


def _fit(checkpoint: Checkpoint, request: ExportRequest, device: str, geometry: Geometry, component: str) -> Fit:
    if request.target not in STREAMED:
        return Fit(kept_folder(), None, f"{request.target} files are written the long way")
    contract = contract_for(checkpoint.family, request.target, component, geometry)
    facts = facts_of(checkpoint, contract, device, request.rewrites, request.chunks)
    name = file_stem(facts) + SUFFIX
    kept = kept_folder() / name
    if request.float32_islands or request.rewrites.check:
        return Fit(kept, None, "what was asked for depends on a sampling run")
    reasons: list[str] = []
    for folder in places():
        if not (folder / name).is_file():
            continue
        try:
            structure = _read(folder / name)
        except (StructureError, OSError) as error:
            _log.warning("note: a structure was not used: %s", error)
            reasons.append("the stored one is damaged")
            continue
        config = checkpoint.components[checkpoint.family.component(component).model].config
        reason = staleness(structure) or config_difference(structure, config)
        if structure.facts == facts and reason is None:
            return Fit(folder / name, structure)
        reasons.append(reason or "it is of another component")
    return Fit(kept, None, reasons[0] if reasons else "there is none of this architecture yet", wanted=True)


def covered_models(checkpoint: Checkpoint, structures: Mapping[str, Fit]) -> frozenset[str]:
    """Returns the models of which every component that was looked for has a structure."""
    models = {name: checkpoint.family.component(name).model for name in structures}
    uncovered = {models[name] for name, fit in structures.items() if fit.structure is None}
    return frozenset(models.values()) - uncovered


def models_with_structures(checkpoint: Checkpoint, request: ExportRequest) -> frozenset[str]:
    """Returns the models that an export would stream; none where the request has faults of another kind."""
    from sdmobile.exporters.estimates import chosen_components, profile_of
    from sdmobile.reference.geometry import geometry_for

    try:
        geometry = geometry_for(checkpoint, request.guidance, request.resolution)
        names = chosen_components(checkpoint.family, request.components)
        return covered_models(
            checkpoint, find_structures(checkpoint, request, profile_of(request).name, geometry, names)
        )
    except SdmobileError:
        return frozenset()


@cache
def _read(path: Path) -> Structure:
    return read_structure(path)
