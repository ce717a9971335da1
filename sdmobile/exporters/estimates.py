"""What an export will take, before anything is done: memory, disk and files of each component."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from sdmobile.basics.words import nearest
from sdmobile.errors import UnsupportedError
from sdmobile.exporters.chunk_contracts import SLACK
from sdmobile.families.component import Role
from sdmobile.families.contracts import contract_for
from sdmobile.reference.geometry import geometry_for

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint
    from sdmobile.device_profiles.model import DeviceProfile
    from sdmobile.exporters.request import ExportRequest
    from sdmobile.families.family import Family
    from sdmobile.formats.bundle.contracts import Contract

# Peak resident memory of one component's process = base + factor · float32 bytes of its weights: bounds on what was
# measured for ios and android on SD1.5-shaped components (docs/benchmarks.md). That of onnx was not measured at full
# size: it is taken to be no more than that of ios.
_MEMORY: dict[str, tuple[float, float]] = {
    "ios": (1.2e9, 2.2),
    "android": (1.7e9, 3.3),
    "onnx": (1.2e9, 2.2),
}
# Bytes written per weight at the worst moment: Android's float32 file lies beside the float16 one until it is cast,
# and a Core ML package beside the temporary one that coremltools saves from.
_DISK = {"ios": 4.1, "android": 6.1, "onnx": 4.1}
_KEPT = {"ios": 2.05, "android": 2.05, "onnx": 4.05}
_SMALL_FILES = 8_000_000
# Bound on an export that streams: 0.6 GiB was measured for SD1.5-shaped components.
STREAMING_BYTES = 1 << 30
# Winograd's transformed weights stand beside the captured ones: 13.0 GiB measured for the SD1.5-shaped UNet.
_WINOGRAD_MEMORY = 0.4
# What the parts before have left behind, of a part's float32 bytes: what converters took does not all go back at once.
# Of a UNet of 2.56 billion parameters in 8 parts the largest process was 4.6 GiB for ios, and 8.9 GiB for android.
_LEFT_BEHIND = {"ios": 0.2, "android": 1.7, "onnx": 0.2}


# Copies of a component's inputs and outputs that are alive while its graph is captured: example, traced value, result.
_ARRAYS = 3


@dataclass(frozen=True)
class PlannedComponent:
    """One component of a plan; memory and size are estimates in bytes.

    Args:
        name: canonical name.
        file: its first file.
        parameters: weights (scalars).
        memory_bytes: peak of the process that exports it the long way.
        disk_bytes: at the worst moment of that.
        kept_bytes: of its files.
        streamed: its weights are written into a structure, a few tensors at a time.
    """

    name: str
    file: str
    parameters: int
    memory_bytes: int
    disk_bytes: int
    kept_bytes: int
    streamed: bool = False

    @property
    def peak_bytes(self) -> int:
        """Memory that the way needs that it goes."""
        return STREAMING_BYTES if self.streamed else self.memory_bytes

    @property
    def largest_bytes(self) -> int:
        """Disk space at the worst moment of the way that it goes."""
        return self.kept_bytes if self.streamed else self.disk_bytes


def profile_of(request: ExportRequest) -> DeviceProfile:
    """Returns the device of a request; raises UnsupportedError where it takes another target."""
    from sdmobile.device_profiles import default_profile, load_profile

    profile = load_profile(request.device) if request.device else default_profile(request.target)
    if profile.target != request.target:
        raise UnsupportedError(f"{profile.name} is a device of target {profile.target}", request.target)
    return profile


def planned_components(
    checkpoint: Checkpoint, request: ExportRequest, covered: frozenset[str] = frozenset()
) -> tuple[PlannedComponent, ...]:
    """Returns what each requested component will take.

    Args:
        checkpoint: from open_checkpoint.
        request: what the user asked for.
        covered: models whose weights are streamed into structures.

    Raises:
        UnsupportedError: an unknown component, device or resolution.
    """
    geometry = geometry_for(checkpoint, request.guidance, request.resolution)
    winograd = profile_of(request).forms.of("convolution") == "winograd"
    cut = checkpoint.family.denoiser.name
    family = checkpoint.family
    planned = (
        _planned(
            checkpoint,
            contract_for(checkpoint.family, request.target, name, geometry),
            winograd,
            min(1.0, SLACK / request.chunks) if name == cut and request.chunks > 1 else 1.0,
            _reference_weights(checkpoint, name, request),
        )
        for name in chosen_components(family, request.components)
    )
    return tuple(replace(one, streamed=family.component(one.name).model in covered) for one in planned)


def _reference_weights(checkpoint: Checkpoint, name: str, request: ExportRequest) -> int:
    """Returns how many weights are in memory at once, whatever the number of parts, for options that run the whole."""
    family = checkpoint.family
    sizes = {model: info.parameters for model, info in checkpoint.components.items()}
    own = sizes[family.component(name).model]
    together = {part.model for part in family.components if part.role in (Role.DENOISER, Role.CONTROL)}
    sampled = max(sum(sizes[model] for model in together), *sizes.values())  # other models come one after another
    compared = 2 * own if request.rewrites.check else 0  # constants that a rule folds stand beside the weights
    return max(compared, sampled) if request.float32_islands or request.rewrites.check else 0


def disk_bytes(components: Sequence[PlannedComponent]) -> int:
    """Returns the estimated disk space at the worst moment: everything kept, and the largest intermediate."""
    kept = sum(component.kept_bytes for component in components)
    return kept + max(component.largest_bytes - component.kept_bytes for component in components) + _SMALL_FILES


def chosen_components(family: Family, components: tuple[str, ...] | None) -> tuple[str, ...]:
    """Returns the names of a family's components that are asked for; raises UnsupportedError for one that is none."""
    if components is None:
        return family.names
    unknown = [name for name in components if name not in family.names]
    if unknown or not components:
        meant = nearest(unknown[0], family.names) if unknown else None
        raise UnsupportedError(f"components are among {', '.join(family.names)}", ", ".join(unknown) or "none", meant)
    return tuple(name for name in family.names if name in components)


def _planned(
    checkpoint: Checkpoint, contract: Contract, winograd: bool, largest: float, reference: int
) -> PlannedComponent:
    """Returns what one component takes.

    The weights of one part at a time are in memory, with what a converter adds to them; its intermediate file, too, is
    of one part.

    Args:
        checkpoint: has the component's size.
        contract: of the whole component.
        winograd: transformed weights stand beside the captured ones.
        largest: the most that one part may hold of the weights; 1 if there is one file.
        reference: weights that are in memory at once when the float32 reference runs; it is gone when parts are made.
    """
    parameters = checkpoint.components[checkpoint.family.component(contract.component).model].parameters
    base, factor = _MEMORY[contract.target]
    factor += (_WINOGRAD_MEMORY if winograd else 0.0) + (_LEFT_BEHIND[contract.target] if largest < 1 else 0.0)
    converted = factor * largest * parameters
    arrays = 4 * sum(prod(spec.shape) for spec in (*contract.inputs, *contract.outputs))
    kept = _KEPT[contract.target]
    return PlannedComponent(
        name=contract.component,
        file=contract.file_name,
        parameters=parameters,
        memory_bytes=int(base + 4 * max(converted, reference) + _ARRAYS * arrays),
        disk_bytes=int((kept + (_DISK[contract.target] - kept) * largest) * parameters),
        kept_bytes=int(kept * parameters),
    )
