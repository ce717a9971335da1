"""What a bundle costs on a phone, from its files alone: latency, memory, size. Every number is predicted.

bundle ─▶ graph of each file ─▶ kernels of the unit's runtime ─▶ seconds ─▶ image
                                                             └─▶ memory ─▶ budget
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sdmobile.basics.words import nearest
from sdmobile.errors import UnsupportedError
from sdmobile.families import family_of
from sdmobile.families.component import UNGUIDED, Guidance, Role
from sdmobile.formats.graph import FileGraph, read_graph
from sdmobile.prediction.assess_device import ChosenUnit, choose_unit, runs
from sdmobile.prediction.assess_savings import Saving, savings
from sdmobile.prediction.component_cost import ComponentCost, component_cost, predict_files
from sdmobile.prediction.latency import KernelTime, Prediction
from sdmobile.prediction.memory_budget import BudgetCheck, check_budget
from sdmobile.prediction.pipeline_time import ImageTime, Loaded, Turns, image_time, turns
from sdmobile.prediction.precision_cost import PrecisionCost, image_costs

if TYPE_CHECKING:
    from sdmobile.families.family import Family
    from sdmobile.formats.bundle.reading import Bundle, BundleComponent


@dataclass(frozen=True)
class CostlyKernel:
    """A kernel with its share of the image.

    Args:
        component: whose.
        time: of one call.
        image_seconds: of all calls in one image.
        share: of the image, as a fraction.
    """

    component: str
    time: KernelTime
    image_seconds: float
    share: float


@dataclass(frozen=True)
class Assessment:
    """What a bundle costs on one compute unit of a device.

    Args:
        name: of the checkpoint.
        device: the device and its unit.
        components: in pipeline order.
        steps: denoising steps of an image.
        guidance: name of one of the family's ways, or none.
        image: the whole image; None where a component of the pipeline is missing.
        rows: of a guided step.
        separate, batched: seconds of a guided step by a call per row and by one call, None where the files do not say.
        budgets: need of memory when all is loaded at once, and one component at a time.
        savings: what the runtime's choices and the recipe save.
        notes: what could not be predicted and why.
    """

    name: str
    device: ChosenUnit
    components: tuple[ComponentCost, ...]
    steps: int
    guidance: str
    image: ImageTime | None
    rows: int
    separate: float | None
    batched: float | None
    budgets: tuple[BudgetCheck, ...]
    savings: tuple[Saving, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def turns(self) -> tuple[Turns, ...]:
        """The image with loading, for both ways; empty where nobody has measured how long a file takes to load."""
        used = [part for part in self.components if part.calls]
        loads = [part.prediction.first_run.load for part in used]
        if self.image is None or not used or None in loads:
            return ()
        known = [
            Loaded(len(part.graphs), part.calls, (load or 0.0) + (part.prediction.first_run.compile or 0.0))
            for part, load in zip(used, loads, strict=True)
        ]
        return turns(self.image.seconds, known)

    @property
    def precisions(self) -> tuple[PrecisionCost, ...]:
        """An image at each precision that an app can ask for; empty where there is no choice, or no image."""
        if self.image is None:
            return ()
        return image_costs([(part.calls, part.precisions) for part in self.components])

    def costliest(self, count: int) -> list[CostlyKernel]:
        """Returns the kernels that take most of an image, each with all its calls."""
        total = self.image.seconds if self.image else sum(c.prediction.seconds for c in self.components)
        costs = [
            CostlyKernel(part.name, time, calls * time.seconds, calls * time.seconds / total)
            for part in self.components
            for calls in (part.calls if self.image else 1,)
            for time in part.prediction.times
        ]
        return sorted(costs, key=lambda cost: -cost.image_seconds)[:count]

    def to_json(self, count: int = 15) -> dict[str, Any]:
        """Returns a JSON object; measured values have no place in it.

        Args:
            count: of the costliest kernels listed.
        """
        return {
            "predicted": True,
            "bundle": self.name,
            **self.device.to_json(),
            "steps": self.steps,
            "guidance": self.guidance,
            "image": None if self.image is None else self.image.to_json(),
            "precisions": {one.precision: one.to_json() for one in self.precisions},
            "guided_step": {
                "rows": self.rows,
                "separate_seconds": self.separate,
                "batched_seconds": self.batched,
            },
            "components": {part.name: part.to_json(count) for part in self.components},
            "file_bytes": sum(part.file_bytes for part in self.components),
            "memory": [check.to_json() for check in self.budgets],
            "with_loading": [one.to_json() for one in self.turns],
            "ram_bytes": self.device.ram_bytes,
            "costliest": [
                {
                    "component": cost.component,
                    "module": cost.time.kernel.name,
                    "category": cost.time.kernel.category,
                    "bound": cost.time.bound,
                    "seconds": cost.time.seconds,
                    "image_seconds": cost.image_seconds,
                    "share": cost.share,
                    "note": cost.time.kernel.note,
                }
                for cost in self.costliest(count)
            ],
            "savings": [saving.to_json() for saving in self.savings],
            "notes": list(self.notes),
        }


def assess(bundle: Bundle, device: ChosenUnit, steps: int | None = None, guidance: str | None = None) -> Assessment:
    """Predicts what a bundle costs on a compute unit.

    Args:
        bundle: its files must be those that the unit's runtime runs.
        device: the device and its unit.
        steps: denoising steps of an image, None for the usual number of the family.
        guidance: one of the family's, or none; None for the bundle's own.

    Raises:
        UnsupportedError: unknown guidance, files for another runtime, or guidance that the files do not have.
    """
    family = family_of(bundle.manifest)
    exported, way = family.guidance(bundle.guidance), _way(family, guidance or bundle.guidance)
    device.require(bundle.target)
    graphs = {name: _graphs(component) for name, component in bundle.components.items()}
    steps = int(steps or bundle.pipeline.get("steps") or family.default_steps)
    denoiser = family.denoiser.name
    unet = graphs.get(denoiser, ())
    single, whole, notes = _both_batches(unet, exported)
    if unet:
        graphs[denoiser] = _unet_for(way, exported, single, whole)
    for part in family.of_role(Role.CONTROL):  # called beside the denoiser, with as many rows
        if files := graphs.get(part.name):
            one, every, _ = _both_batches(files, exported)
            graphs[part.name] = _unet_for(way, exported, one, every)
            single, whole = (*one, *single) if one and single else (), (*every, *whole) if every and whole else ()
    calls = {part.name: family.calls_of(part, way, steps) for part in family.components}
    rows = len(family.guidance_rows)
    parts = tuple(
        component_cost(name, files, device, calls.get(name, 0), _recipe(bundle.components[name]))
        for name, files in graphs.items()
    )
    image, missing = _image(family, parts)
    return Assessment(
        name=str(bundle.source.get("name", bundle.path.name)),
        device=device,
        components=parts,
        steps=steps,
        guidance=way.name,
        image=image,
        rows=rows,
        separate=rows * predict_files(single, device)[1].seconds if single else None,
        batched=predict_files(whole, device)[1].seconds if whole else None,
        budgets=budgets(parts, device),
        savings=savings(parts, device),
        notes=(*notes, *missing),
    )


def budgets(parts: Sequence[ComponentCost], device: ChosenUnit) -> tuple[BudgetCheck, ...]:
    """Returns the need of memory for both ways to load, against what an app may use.

    What an image does not need, such as the encoder of pictures, is left out where the rest makes an image.
    """
    chosen = [part for part in parts if part.calls] or parts
    files = [memory for part in chosen for memory in part.memory]
    allowed = device.profile.hardware.get("app_memory")
    checks = (check_budget(files, allowed, way) for way in ("all at once", "one at a time"))
    core_ml = runs(device.unit) == "ios"
    return tuple(
        replace(check, advice=tuple(advice for advice in check.advice if core_ml or not advice.core_ml))
        for check in checks
    )


def bundle_memory(bundle: Bundle) -> tuple[BudgetCheck, ...]:
    """Returns the need of memory of a bundle on its own device; empty where the device's units are not known.

    Args:
        bundle: what was exported.
    """
    from sdmobile.device_profiles import default_profile

    try:
        device = choose_unit(bundle.device or default_profile(bundle.target))
        device.require(bundle.target)
    except UnsupportedError:
        return ()
    needed = set(family_of(bundle.manifest).sampling)
    image = needed if needed <= set(bundle.components) else set(bundle.components)
    parts = [component_cost(name, _graphs(bundle.components[name]), device, 1) for name in image]
    return budgets(parts, device)


def _graphs(component: BundleComponent) -> tuple[FileGraph, ...]:
    return tuple(read_graph(part.path) for part in component.chain or (component,))


def _recipe(component: BundleComponent) -> str | None:
    compression = component.record.get("compression")
    return None if compression is None else str(compression.get("recipe") or "compressed")


def _way(family: Family, name: str) -> Guidance:
    ways = {way.name: way for way in (*family.guidances, UNGUIDED)}
    if name not in ways:
        raise UnsupportedError(f"guidance must be one of {', '.join(ways)}", name, nearest(name, ways))
    return ways[name]


def _both_batches(
    unet: tuple[FileGraph, ...], exported: Guidance
) -> tuple[tuple[FileGraph, ...], tuple[FileGraph, ...], list[str]]:
    """The UNet's files for one row of guidance and for all, as far as the exported ones tell."""
    from sdmobile.formats.graph.graph import one_row

    if exported.rows == 1 or not unet:
        return unet, (), []
    try:
        return tuple(one_row(graph, exported.rows) for graph in unet), unet, []
    except UnsupportedError as error:
        return (), unet, [f"no prediction of the UNet at batch 1: {error.message()}"]


def _unet_for(
    way: Guidance, exported: Guidance, single: tuple[FileGraph, ...], whole: tuple[FileGraph, ...]
) -> tuple[FileGraph, ...]:
    files = whole if way.rows > 1 else single
    if not files:
        raise UnsupportedError(
            "the bundle's UNet must have the batch of the guidance that is asked for",
            f"{way.name}; the bundle was exported for {exported.name}",
            f"Leave --guidance out, or export with --guidance {way.name if way.rows > 1 else 'separate'}",
        )
    return files


def _image(family: Family, parts: Sequence[ComponentCost]) -> tuple[ImageTime | None, list[str]]:
    by_name = {part.name: part for part in parts}
    missing = [name for name in family.sampling if name not in by_name]
    if missing:
        return None, [f"no prediction of an image: the bundle has no {', '.join(missing)}"]

    def calls(*roles: Role) -> list[tuple[Prediction, int]]:
        parts = (part for role in roles for part in family.of_role(role) if part.name in family.sampling)
        return [(by_name[part.name].prediction, by_name[part.name].calls) for part in parts]

    encoding = calls(Role.TEXT_ENCODER, Role.IMAGE_ENCODER)
    denoising = calls(Role.DENOISER, Role.CONTROL, Role.PLUGIN)
    return image_time(encoding, denoising, calls(Role.DECODER)), []
