"""What a user asks `sdmobile export` for, and what that will take, before anything is done."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.words import nearest
from sdmobile.checkpoints.changes import UNCHANGED, Changes
from sdmobile.checkpoints.control import ControlFolder
from sdmobile.errors import ResourceError, UnsupportedError
from sdmobile.exporters.chunk_contracts import check_chunks
from sdmobile.exporters.estimates import (
    PlannedComponent,
    chosen_components,
    disk_bytes,
    planned_components,
    profile_of,
)
from sdmobile.exporters.job import ExportJob
from sdmobile.exporters.part_sizes import AUTO, chunks_for
from sdmobile.exporters.preflight import PreflightReport, existing, preflight
from sdmobile.families.control import controls_to_json
from sdmobile.formats.bundle.contracts import TARGETS
from sdmobile.reference.geometry import Resolution, geometry_for
from sdmobile.rewrites.options import RewriteOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.exporters.structures.find import Fit
    from sdmobile.formats.bundle.contracts import Geometry
    from sdmobile.quantize.recipes import Recipe


@dataclass(frozen=True)
class ExportRequest:
    """The arguments of an export.

    Args:
        checkpoint: folder or single file; None for the bundled one.
        target: "ios", "android" or "onnx".
        out_dir: the bundle folder to write.
        device: name of a device profile; None for the target's default.
        components: which to export; None for all.
        resolution: of the picture; None for what the checkpoint was trained on.
        guidance: one of the family's, None for its default.
        overwrite: replace an existing bundle.
        rewrites: what the user changes about the device's rules.
        chunks: number of files that the UNet is cut into; `part_sizes.AUTO` for parts of the device's size.
        float32_islands: sample a little and keep in float32 what overflows float16 then.
        recipe: how the weights of the finished files are stored; None leaves them as the device's profile says.
        tokenizer: folder of the tokenizer, for a checkpoint that has none.
        prediction_type: what the denoiser predicts, for a checkpoint that does not say.
        changes: what is put on top of the checkpoint.
        controls: control networks that go with it.
        structures: stream weights into a stored structure where one fits, and keep one where none does.
    """

    checkpoint: Path | None
    target: str
    out_dir: Path
    device: str | None = None
    components: tuple[str, ...] | None = None
    resolution: Resolution | None = None
    guidance: str | None = None
    overwrite: bool = False
    rewrites: RewriteOptions = field(default_factory=RewriteOptions)
    chunks: int = 1
    float32_islands: bool = False
    recipe: Recipe | None = None
    tokenizer: Path | None = None
    prediction_type: str | None = None
    changes: Changes = UNCHANGED
    controls: tuple[ControlFolder, ...] = ()
    structures: bool = True


@dataclass(frozen=True)
class ExportPlan:
    """What an export will do and need."""

    request: ExportRequest
    checkpoint: Checkpoint
    device: str
    geometry: Geometry
    components: tuple[PlannedComponent, ...]
    report: PreflightReport
    structures: Mapping[str, Fit] = field(default_factory=dict)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user, or the app on the phone, has to know of the bundle; the machine's room is another matter."""
        return self.report.about_bundle

    @property
    def guidance(self) -> str:
        """The way of guidance, settled."""
        return self.checkpoint.family.guidance(self.request.guidance).name

    def is_streamed(self, component: str) -> bool:
        """Returns whether a component's weights are streamed into a structure."""
        fit = self.structures.get(component)
        return fit is not None and fit.structure is not None

    @property
    def memory_bytes(self) -> int:
        """Estimated peak of the largest component's process; components run one after another."""
        return max(component.peak_bytes for component in self.components)

    @property
    def disk_bytes(self) -> int:
        """Estimated disk space at the worst moment: everything kept, and the largest intermediate."""
        return disk_bytes(self.components)

    @property
    def _controls(self) -> tuple[ControlFolder, ...]:
        """The control networks where they were found, so that a component's process asks no Hub again."""
        from sdmobile.checkpoints.control import ControlFolder

        networks = zip(self.checkpoint.control_files, self.checkpoint.family.controls, strict=True)
        return tuple(ControlFolder(files[0].parent, control.scale) for files, control in networks)

    def job(self, component: str, folder: Path) -> ExportJob:
        """Returns the order for one component's process."""
        request = self.request
        return ExportJob(
            checkpoint=self.checkpoint.path,
            component=component,
            target=request.target,
            device=self.device,
            guidance=self.guidance,
            resolution=request.resolution,
            out_dir=folder,
            rewrites=request.rewrites,
            chunks=request.chunks,
            float32_islands=request.float32_islands,
            tokenizer=request.tokenizer,
            prediction_type=request.prediction_type,
            changes=request.changes,
            controls=self._controls,
            structure=self.place_of(component),
            content_hash=self.checkpoint.content_hash,
        )

    def place_of(self, component: str) -> Path | None:
        """Returns where the structure of a component is to be kept, None where there is one or none can be."""
        fit = self.structures.get(component)
        return fit.path if fit is not None and fit.wanted else None

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as JSON values; sizes are estimates."""
        return {
            "checkpoint": self.checkpoint.name,
            "target": self.request.target,
            "device": self.device,
            "guidance": self.guidance,
            "rewrites": self.request.rewrites.to_json(),
            "chunks": self.request.chunks,
            "float32_islands": self.request.float32_islands,
            "loras": [],
            **self.checkpoint.changes,
            "clip_skip": self.checkpoint.clip_skip,
            "recipe": None if self.request.recipe is None else self.request.recipe.name,
            "output": str(self.request.out_dir),
            "geometry": self.geometry.to_json(),
            "control": controls_to_json(self.checkpoint.family.controls),
            "components": [asdict(component) for component in self.components],
            "warnings": list(self.report.warnings),
            "notes": list(self.report.notes),
            "checks": self.report.to_json()["checks"],
            "estimated_peak_memory_bytes": self.memory_bytes,
            "estimated_disk_bytes": self.disk_bytes,
        }


def make_plans(requests: Sequence[ExportRequest], dry: bool = False) -> list[ExportPlan]:
    """Returns the plans of exports that differ in target and place alone; the checkpoint is opened once.

    Args:
        requests: what the user asked for; what `make_plan` raises about any of them is raised.
        dry: nothing will be written.
    """
    plans: list[ExportPlan] = []
    for request in requests:
        plans.append(make_plan(request, plans[0].checkpoint if plans else None, dry))
    return plans


def make_plan(request: ExportRequest, opened: Checkpoint | None = None, dry: bool = False) -> ExportPlan:
    """Recognises the checkpoint and works out what its export will do and need.

    Args:
        request: what the user asked for.
        opened: the request's checkpoint, if it has been opened already.
        dry: nothing will be written, so that every weight is looked at now.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        UnsupportedError: an unknown target, device, component or resolution, or a target that cannot take it.
        SdmobileError: what the preflight refuses, see `preflight`.
    """
    from sdmobile.checkpoints import open_checkpoint
    from sdmobile.device_profiles import device_key
    from sdmobile.exporters.structures.find import covered_models, find_structures
    from sdmobile.rewrites.registry import check_names

    if request.target not in TARGETS:
        raise UnsupportedError(
            f"the target must be one of {', '.join(TARGETS)}", request.target, nearest(request.target, TARGETS)
        )
    profile = profile_of(request)
    check_names(request.rewrites)
    if request.chunks != AUTO:
        check_chunks(request.chunks)
    checkpoint = opened or open_checkpoint(
        request.checkpoint, request.tokenizer, request.prediction_type, request.changes, controls=request.controls
    )
    if request.chunks == AUTO:
        request = replace(request, chunks=chunks_for(checkpoint, profile))
        check_chunks(request.chunks)
    geometry = geometry_for(checkpoint, request.guidance, request.resolution)
    names = chosen_components(checkpoint.family, request.components)
    device = profile.name if request.device is None else device_key(request.device)
    _check_recipe(request, device, names)
    structures = find_structures(checkpoint, request, device, geometry, names) if request.structures else {}
    covered = covered_models(checkpoint, structures)
    planned = planned_components(checkpoint, request, covered)
    report = preflight(checkpoint, request, covered, streaming=not dry)
    report.require()
    return ExportPlan(request, checkpoint, device, geometry, planned, report, structures)


def _check_recipe(request: ExportRequest, device: str, components: tuple[str, ...]) -> None:
    """Refuses, before anything is exported, a recipe that the device or the chosen components do not fit."""
    if request.recipe is None:
        return
    from sdmobile.quantize.support import require_components, require_recipe

    require_recipe(request.recipe, request.target, device)
    require_components(request.recipe, components)


def check_resources(plan: ExportPlan, cached: frozenset[str] = frozenset()) -> None:
    """Compares the plan's needs with this machine's free memory and disk space.

    Args:
        plan: the export.
        cached: components that are already finished and take no memory.

    Raises:
        ResourceError: too little of either.
    """
    import psutil

    waiting = [component for component in plan.components if component.name not in cached]
    available = psutil.virtual_memory().available
    if waiting:
        largest = max(waiting, key=lambda component: component.peak_bytes)
        if largest.peak_bytes > available:
            raise ResourceError(
                f"{largest.name} needs about {largest.peak_bytes / 2**30:.1f} GiB of memory to export",
                f"{available / 2**30:.1f} GiB is free",
                "Close other programs, export on a larger machine, or pass --ignore-limits to try all the same",
            )
    folder = existing(plan.request.out_dir.absolute().parent)
    free = shutil.disk_usage(folder).free
    if plan.disk_bytes > free:
        raise ResourceError(
            f"the export needs about {plan.disk_bytes / 1e9:.2f} GB of disk space",
            f"{free / 1e9:.2f} GB is free in {folder}",
            "Free some space, choose another --output, or pass --ignore-limits to try all the same",
        )
