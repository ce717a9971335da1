"""Brings measurements of many people together: stored ones, and runs of the page on phones.

folder of FILE.json (runs) and FILE.json.gz (stored measurements) ─▶ measurements, each with its origin │ left out, why
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdmobile.basics.untrusted import MAX_TREE
from sdmobile.device_profiles import load_profile
from sdmobile.errors import SdmobileError
from sdmobile.prediction.assess_device import choose_unit
from sdmobile.prediction.measurements import (
    Measurement,
    MeasurementError,
    Row,
    belongs,
    check_row,
    measurement,
    read_stored,
)
from sdmobile.prediction.measurements_fit import features_of
from sdmobile.prediction.phone_run import PhoneRun, PhoneRunError, read_run
from sdmobile.prediction.phone_run_rows import rows_of_run, unit_of_run

if TYPE_CHECKING:
    from sdmobile.formats.bundle.reading import Bundle

_STORED, _RUN = ".json.gz", ".json"


@dataclass(frozen=True)
class Merged:
    """What a folder held.

    Args:
        measurements: each once, in the order of the files' names.
        left_out: a sentence for every file of which nothing was taken.
    """

    measurements: tuple[Measurement, ...]
    left_out: tuple[str, ...]


def merge(folder: Path, bundles: Sequence[Bundle], device: str | None = None) -> Merged:
    """Returns the measurements in a folder and below it.

    Args:
        folder: of runs and stored measurements, by whatever names.
        bundles: that the runs may be of; a stored measurement needs none, for it has its graphs.
        device: name or file of the profile that runs belong to; None for the one that each run names.

    Raises:
        MeasurementError: no folder, or one of too many files.
    """
    found: dict[tuple[object, ...], Measurement] = {}
    left_out: list[str] = []
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        try:
            for one in tuple(_taken(path, name, bundles, device)):  # all of a file, or nothing
                found.setdefault(_identity(one), one)
        except SdmobileError as error:
            left_out.append(f"{name}: {error.message()}")
    return Merged(tuple(found.values()), tuple(left_out))


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise MeasurementError("results are merged from a folder", folder)
    paths: list[Path] = []
    for path in folder.rglob("*"):
        if path.name.endswith((_STORED, _RUN)) and not path.is_symlink():
            paths.append(path)
        if len(paths) > MAX_TREE:
            raise MeasurementError(f"a folder of results has at most {MAX_TREE} files", folder)
    return sorted(paths)


def _taken(path: Path, name: str, bundles: Sequence[Bundle], device: str | None) -> Iterator[Measurement]:
    """Yields the measurements of one file, each with its origin."""
    if path.name.endswith(_STORED):
        stored = read_stored(path)
        _check_stored(stored)
        yield stored if stored.origin else replace(stored, origin=name)
        return
    run = read_run(path)
    bundle = next((one for one in bundles if one.sha256 == run.bundle_sha256), None)
    if bundle is None:
        raise PhoneRunError(
            "a run is merged with the bundle that it ran",
            f"{run.bundle_name}, {run.bundle_sha256[:12]}",
            "Name it: --bundle FOLDER",
        )
    origin = f"{name}: run {run.job}, {run.started}, bundle {run.bundle_name}, {run.user_agent}"
    rows = rows_of_run(run, bundle, origin)  # first: it says why a run is no measurement at all
    unit = unit_of_run(run, device or _device_of(run, bundle), None)
    for row in rows:
        yield measurement(bundle, unit, row.component, row.seconds, row.place, row.runtime, row.origin)


def _check_stored(stored: Measurement) -> None:
    """Raises an error of sdmobile's unless a stored measurement is of a device, a unit and a graph that can be used."""
    unit = choose_unit(load_profile(stored.device), stored.unit, to_fit=True)
    check_row(Row(stored.component, stored.seconds, stored.place, stored.runtime))
    if not belongs(stored.runtime, unit):
        raise MeasurementError("a measurement must be of its unit", f"{stored.unit} by {stored.runtime}")
    features_of(unit, stored)


def _device_of(run: PhoneRun, bundle: Bundle) -> str:
    """Returns the profile that a run names; one of the user's own travels in the bundle."""
    own = bundle.device
    carried = own is not None and own.endswith(".toml") and Path(own).stem == run.device_profile
    return own if own is not None and carried else run.device_profile


def _identity(one: Measurement) -> tuple[object, ...]:
    return (one.device, one.unit, one.component, one.bundle, one.seconds, one.place, one.runtime)
