"""Times that a user measured, kept in the user's data folder with the graphs that they belong to.

A stored measurement needs neither the bundle nor its weights again: the graph is enough to fit a unit's parameters.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.untrusted import parse_json, read_bounded
from sdmobile.device_profiles.costs_schema import Runtime
from sdmobile.errors import EXIT_CHECKPOINT, SdmobileError, UnsupportedError
from sdmobile.formats.graph import FileGraph, read_graph
from sdmobile.prediction.graph_json import decode, encode

if TYPE_CHECKING:
    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.prediction.assess_device import ChosenUnit

_SUFFIX = ".json.gz"
_VERSION = 1
_MAX_FILE = 1 << 25
# What `profile --measure` calls a runtime, and the units that it is a measurement of.
_MEASURES: tuple[tuple[str, tuple[Runtime, ...]], ...] = (
    ("adb gpu", ("ml-drift", "tflite-gpu")),
    ("adb cpu", ("xnnpack",)),
    ("LiteRT", ("xnnpack",)),
    ("coreml-ne", ("coreml-ne",)),
    ("coreml-gpu", ("coreml-gpu",)),
)


class MeasurementError(SdmobileError):
    """A file of measurements cannot be read or says something impossible."""

    exit_code = EXIT_CHECKPOINT


@dataclass(frozen=True)
class Measurement:
    """A measured time of one component.

    Args:
        device: name of the profile.
        unit: name of the compute unit.
        component: canonical name.
        bundle: SHA-256 of the component's files.
        seconds: of one call.
        place: what it was measured on, in the user's words.
        runtime: what ran it.
        graphs: of the component's files.
    """

    device: str
    unit: str
    component: str
    bundle: str
    seconds: float
    place: str
    runtime: str
    graphs: tuple[FileGraph, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns everything but the graphs; every number was measured."""
        return {"measured": True} | {key: value for key, value in vars(self).items() if key != "graphs"}


def default_folder() -> Path:
    """Returns where measurements are kept: `$SDMOBILE_DATA`, else the user's data folder."""
    chosen = os.environ.get("SDMOBILE_DATA")
    root = (
        Path(chosen) if chosen else Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "sdmobile"
    )
    return root / "measurements"


def store(measurement: Measurement, folder: Path | None = None) -> Path:
    """Keeps a measurement and returns its file; the same one again replaces itself.

    Args:
        measurement: what was measured.
        folder: where; None for the user's data folder.
    """
    from sdmobile.basics.files import write_whole

    content = {
        "version": _VERSION,
        **measurement.to_json(),
        "graphs": [encode(graph) for graph in measurement.graphs],
    }
    text = json.dumps(content, separators=(",", ":")).encode()
    name = f"{measurement.unit}-{measurement.component}-{hashlib.sha256(text).hexdigest()[:12]}{_SUFFIX}"
    path = (folder or default_folder()) / measurement.device / name
    write_whole(path, gzip.compress(text, mtime=0))
    return path


def load(device: str, folder: Path | None = None) -> tuple[Measurement, ...]:
    """Returns the measurements of a device in the order of their files' names.

    Raises:
        MeasurementError: a file is damaged.
    """
    paths = sorted(((folder or default_folder()) / device).glob(f"*{_SUFFIX}"))
    return tuple(_read(path) for path in paths)


def _read(path: Path) -> Measurement:
    try:
        known = json.loads(gzip.decompress(path.read_bytes()))
        graphs = tuple(decode(graph) for graph in known["graphs"])
        fields = {key: known[key] for key in Measurement.__dataclass_fields__ if key != "graphs"}
        return Measurement(**fields, graphs=graphs)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise MeasurementError(
            "a stored measurement must be whole", f"{path}: {type(error).__name__}: {error}", "Delete the file"
        ) from error


def measurement(
    bundle: Bundle, unit: ChosenUnit, component: str, seconds: float, place: str, runtime: str = ""
) -> Measurement:
    """Returns a measured time of a bundle's component with what a fit needs.

    Args:
        bundle: whose files ran.
        unit: what they ran on.
        component: canonical name.
        seconds: of one call.
        place: what it was measured on, in the user's words.
        runtime: what ran it.

    Raises:
        UnsupportedError: the bundle has no such component, or its files do not run on the unit.
        MeasurementError: the time is no positive number.
    """
    unit.require(bundle.target)
    if component not in bundle.components:
        raise UnsupportedError(
            "the component must be one of the bundle", component, f"It has {', '.join(bundle.components)}"
        )
    if not math.isfinite(seconds) or seconds <= 0:
        raise MeasurementError("a measured time is a positive number", seconds)
    found = bundle.components[component]
    graphs = tuple(read_graph(part.path) for part in found.chain or (found,))
    digest = str(found.record.get("sha256", ""))
    return Measurement(unit.profile.name, unit.name, component, digest, seconds, place, runtime, graphs)


@dataclass(frozen=True)
class Row:
    """A line of a file of measurements."""

    component: str
    seconds: float
    place: str
    runtime: str


def read_rows(path: Path) -> tuple[Row, ...]:
    """Reads measured times from JSON: what `profile --measure --json` prints, or {"rows": [...]} alike.

    A row has "component", "seconds" or "milliseconds", "place", and perhaps "runtime".

    Raises:
        MeasurementError: no such file, or another content.
    """
    try:
        known = parse_json(read_bounded(path, _MAX_FILE))
    except (OSError, ValueError) as error:
        raise MeasurementError("measurements are read from a JSON file", f"{path}: {error}") from error
    rows = _rows(known)
    if not rows:
        raise MeasurementError(
            "a file of measurements has rows",
            path,
            'Write {"rows": [{"component": "unet", "seconds": 0.5, "place": …}]}',
        )
    return tuple(_row(path, number, row) for number, row in enumerate(rows, 1))


def _rows(known: Any) -> Sequence[Any]:
    if isinstance(known, dict) and isinstance(known.get("measurement"), dict):
        known = known["measurement"]
    rows = known.get("rows") if isinstance(known, dict) else known
    return rows if isinstance(rows, list) else ()


def _row(path: Path, number: int, row: Mapping[str, Any]) -> Row:
    try:
        if row.get("predicted"):
            raise ValueError("the row is a prediction")
        seconds = float(row["seconds"]) if "seconds" in row else 1e-3 * float(row["milliseconds"])
        return Row(str(row["component"]), seconds, str(row["place"]), str(row.get("runtime", "")))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MeasurementError(
            "a row has component, seconds or milliseconds, and place",
            f"{path}, row {number}: {type(error).__name__}: {error}",
        ) from error


def belongs(runtime: str, unit: ChosenUnit) -> bool:
    """Returns whether what a runtime measured says something about a unit; a runtime of the user's own words does."""
    for begin, kinds in _MEASURES:
        if runtime.startswith(begin):
            return unit.unit.runtime in kinds
    return not runtime.startswith(("coreml", "ONNX"))
