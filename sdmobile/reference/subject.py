"""One component of a checkpoint, captured for a device and not yet rewritten: what rules are studied on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdmobile.errors import UnsupportedError
from sdmobile.families.contracts import COMPONENTS, contract_for, module_name
from sdmobile.families.wrappers import wrap
from sdmobile.formats.bundle.contracts import Contract
from sdmobile.reference.geometry import geometry_for

if TYPE_CHECKING:
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
    checkpoint: Path | None, component: str, device: str, guidance: str = "batch2", resolution: int | None = None
) -> Subject:
    """Loads a component and captures its graph for a device.

    Args:
        checkpoint: folder or single file; None for the bundled one.
        component: canonical name.
        device: name of a device profile.
        guidance: "batch2" or "separate".
        resolution: height = width in pixels, None for the checkpoint's own.

    Raises:
        SdmobileError: an unreadable checkpoint, or an unknown component or device.
    """
    from sdmobile.checkpoints import load_component, open_checkpoint
    from sdmobile.device_profiles import load_profile
    from sdmobile.reference.capture import capture

    if component not in COMPONENTS:
        raise UnsupportedError(f"the component must be one of {', '.join(COMPONENTS)}", component)
    profile = load_profile(device)
    opened = open_checkpoint(checkpoint)
    geometry = geometry_for(opened, guidance, resolution)
    contract = contract_for(profile.target, component, geometry)
    module = wrap(profile.target, component, load_component(opened, module_name(component)))
    program, _ = capture(module, contract)
    return Subject(opened, component, profile, guidance, geometry, contract, program)
