"""Turns a run of the page on a phone into measured times, where it is worth that."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from sdmobile.device_profiles import load_profile
from sdmobile.errors import UnsupportedError
from sdmobile.prediction.assess_device import ChosenUnit, choose_unit
from sdmobile.prediction.measurements import Row
from sdmobile.prediction.phone_run import PhoneRun, PhoneRunError

if TYPE_CHECKING:
    from sdmobile.device_profiles.model import DeviceProfile
    from sdmobile.formats.bundle.reading import Bundle

_LEAST_DB = 35.0  # the gate of Apple's converter (validate/thresholds.py); a page may call anything "passed"
_UNITS = {"float16": "webgpu", "float32": "webgpu-float32"}


def rows_of_run(run: PhoneRun, bundle: Bundle, origin: str) -> tuple[Row, ...]:
    """Returns the median time of every component that ran rightly.

    Args:
        run: of the page.
        bundle: that it claims to have run.
        origin: where the run was found, for the provenance of the rows.

    Raises:
        PhoneRunError: the run is of another bundle, is no measurement of a phone's GPU, or has no right component.
    """
    if run.bundle_sha256 != bundle.sha256:
        raise PhoneRunError(
            "a run is stored with the bundle that it ran",
            f"{run.bundle_name}, {run.bundle_sha256[:12]}; this one is {bundle.sha256[:12]}",
            "Name the bundle that was served",
        )
    if (reason := run.unstorable()) is not None:
        raise PhoneRunError("only a phone's own GPU is measured by a page", reason)
    assert run.adapter is not None
    failed = {check.component for check in run.checks if not check.passed}
    runtime = f"LiteRT.js webgpu {run.runtime.removeprefix('LiteRT.js ')} {run.precision}"
    rows = tuple(
        Row(one.name, statistics.median(one.seconds), run.adapter.title, runtime, origin)
        for one in run.components
        if one.seconds and one.name not in failed and not run.component_faults(one.name, _LEAST_DB)
    )
    if not rows:
        raise PhoneRunError("a time is stored where the results were right", "no component of the run was")
    return rows


def unit_of_run(run: PhoneRun, device: str | DeviceProfile, unit: str | None) -> ChosenUnit:
    """Returns the unit that a run measured.

    Args:
        run: of the page.
        device: name or file of a profile: the phone that the user holds.
        unit: name; None for the one of the run's precision.

    Raises:
        UnsupportedError: no such device or unit, or the GPU's maker is another than the device's.
    """
    profile = load_profile(device) if isinstance(device, str) else device
    name = unit or _UNITS[run.precision]
    chosen = choose_unit(profile, name, to_fit=True)
    maker = _maker(chosen)
    said = "" if run.adapter is None else run.adapter.vendor.lower()
    if maker and said and said != maker:
        raise UnsupportedError(
            f"the GPU of {profile.name} is of {maker}",
            f"the run's is of {said}",
            "Name the phone that it ran on: --device NAME or FILE.toml",
        )
    return chosen


def _maker(unit: ChosenUnit) -> str | None:
    """Returns what WebGPU calls the maker of a device's GPU, None where the profile does not tell it."""
    if (unit.unit.gpu or "").startswith("adreno"):
        return "qualcomm"
    return "apple" if unit.profile.target == "ios" else None
