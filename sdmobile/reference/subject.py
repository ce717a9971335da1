"""One component of a checkpoint, captured for a device and not yet rewritten: what rules are studied on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.families.contracts import contract_for, wrap
from sdmobile.formats.bundle.contracts import Contract
from sdmobile.reference.geometry import Resolution, geometry_for

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.device_profiles.model import DeviceProfile
    from sdmobile.formats.bundle.contracts import Geometry


@dataclass(frozen=True)
class Subject:
    """A captured component with everything that decides its export."""

    checkpoint: Checkpoint
    component: str
    profile: DeviceProfile
    guidance: str
    geometry: Geometry
    contract: Contract
    program: ExportedProgram


def capture_subject(
    checkpoint: Path | None,
    component: str | None,
    device: str,
    guidance: str | None = None,
    resolution: Resolution | None = None,
) -> Subject:
    """Loads a component and captures its graph for a device.

    Args:
        checkpoint: folder or single file; None for the bundled one.
        component: canonical name, None for the denoiser.
        device: name of a device profile.
        guidance: one of the family's, None for its default.
        resolution: of the picture, None for the checkpoint's own.

    Raises:
        SdmobileError: an unreadable checkpoint, or an unknown component or device.
    """
    from sdmobile.checkpoints import open_checkpoint
    from sdmobile.device_profiles import load_profile

    profile = load_profile(device)
    opened = open_checkpoint(checkpoint)
    component = component or opened.family.denoiser.name
    geometry = geometry_for(opened, guidance, resolution)
    contract = contract_for(opened.family, profile.target, component, geometry)
    program = captured(opened, contract)
    way = opened.family.guidance(guidance).name
    return Subject(opened, component, profile, way, geometry, contract, program)


def captured(checkpoint: Checkpoint, contract: Contract, record: Mapping[str, Any] | None = None) -> ExportedProgram:
    """Loads the component of a contract and returns its graph, not yet rewritten; see `wrapped_component`."""
    from sdmobile.reference.capture import capture

    return capture(wrapped_component(checkpoint, contract.target, contract.component, record), contract)[0]


def hollow_component(checkpoint: Checkpoint, target: str, component: str) -> tuple[nn.Module, dict[str, str]]:
    """Returns what `wrapped_component` does without its weights, for which fake tensors stand, and where they are.

    Returns:
        The module, and by the name of each weight in it that in the component's model, for `read_weights`.
    """
    from sdmobile.checkpoints.load import hollow_model

    part = checkpoint.family.component(component)
    model = hollow_model(checkpoint, part.model)
    names = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
    module = wrap(target, part, model)
    held = module.state_dict(keep_vars=True)
    return module, {name: names[id(tensor)] for name, tensor in held.items() if id(tensor) in names}


def wrapped_component(
    checkpoint: Checkpoint, target: str, component: str, record: Mapping[str, Any] | None = None
) -> nn.Module:
    """Returns a component in float32 behind the interface of a target's file, without what other components use.

    Args:
        checkpoint: the checkpoint.
        target: of the file.
        component: canonical name.
        record: what a bundle keeps of the component, if it is to be computed with the scales of the bundle's file.

    Raises:
        UnsupportedError: the record scales what the component does not have.
    """
    from sdmobile.checkpoints import load_model
    from sdmobile.reference.float16_scales import exponents_of, rescale_as

    part = checkpoint.family.component(component)
    module = wrap(target, part, load_model(checkpoint, part.model))
    if record is not None:
        rescale_as(module, part.streams(module), exponents_of(record))
    return module
