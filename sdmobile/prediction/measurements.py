"""Times that a user measured, kept in the user's data folder with the graphs that they belong to.

A stored measurement needs neither the bundle nor its weights again: the graph is enough to fit a unit's parameters.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.files import data_folder
from sdmobile.basics.untrusted import parse_json, read_bounded
from sdmobile.device_profiles.costs_schema import Runtime
from sdmobile.device_profiles.model import NAME
from sdmobile.errors import EXIT_CHECKPOINT, SdmobileError, UnsupportedError
from sdmobile.formats.graph import FileGraph, read_graph
from sdmobile.prediction.graph_json import decode, encode

if TYPE_CHECKING:
    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.prediction.assess_device import ChosenUnit

_SUFFIX = ".json.gz"
_VERSION = 1
_MAX_FILE = 1 << 25
_GPU: tuple[Runtime, ...] = ("ml-drift", "tflite-gpu")
# How the words for a runtime begin, and the units that it is a measurement of; the first that fits is taken.
_MEASURES: tuple[tuple[str, tuple[Runtime, ...]], ...] = (
    ("adb gpu", _GPU),
    ("adb cpu", ("xnnpack",)),
    ("benchmark_model gpu", _GPU),
    ("benchmark_model cpu", ("xnnpack",)),
    ("LiteRT-CLI gpu", _GPU),
    ("LiteRT-CLI cpu", ("xnnpack",)),
    ("LiteRT.js webgpu", ("ml-drift-webgpu",)),
    ("LiteRT.js", ()),
    ("LiteRT", ("xnnpack",)),
    ("coreml-ne", ("coreml-ne",)),
    ("coreml-gpu", ("coreml-gpu",)),
    ("Xcode neural-engine", ("coreml-ne",)),
    ("Xcode gpu", ("coreml-gpu",)),
    ("coreml", ()),
    ("ONNX", ()),
)
RUNTIMES = tuple(begin for begin, runtimes in _MEASURES if runtimes)
"""Words for a runtime that tell which unit was measured."""
SOFTWARE = ("swiftshader", "llvmpipe", "lavapipe", "softpipe", "microsoft basic render")
"""Names of GPUs that a processor plays."""


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
        origin: the run, and the file of it, that this was taken from; empty where a user typed it.
    """

    device: str
    unit: str
    component: str
    bundle: str
    seconds: float
    place: str
    runtime: str
    graphs: tuple[FileGraph, ...]
    origin: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns everything but the graphs; every number was measured."""
        return {"measured": True} | {key: value for key, value in vars(self).items() if key != "graphs"}


def default_folder() -> Path:
    """Returns where measurements are kept: `$SDMOBILE_DATA`, else the user's data folder."""
    return data_folder("measurements")


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
    return tuple(read_stored(path) for path in paths)


def read_stored(path: Path) -> Measurement:
    """Returns a stored measurement from its file, which may be somebody else's.

    Raises:
        MeasurementError: the file is damaged, or claims what cannot be.
    """
    try:
        known = parse_json(_unpacked(read_bounded(path, _MAX_FILE)))
        if known["version"] != _VERSION or known.get("measured") is not True:
            raise ValueError(f"it is of version {known['version']}, and measured: {known.get('measured')}")
        graphs = tuple(decode(graph) for graph in known["graphs"])
        fields = {key: known[key] for key in Measurement.__dataclass_fields__ if key not in ("graphs", "origin")}
        found = Measurement(**fields, graphs=graphs, origin=str(known.get("origin", "")))
        _check_types(found)
        return found
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise MeasurementError(
            "a stored measurement must be whole", f"{path}: {type(error).__name__}: {error}", "Delete the file"
        ) from error


def _unpacked(data: bytes) -> bytes:
    """Returns what was compressed; a small file may claim much."""
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
        text = stream.read(_MAX_FILE + 1)
    if len(text) > _MAX_FILE:
        raise ValueError(f"it unpacks to more than {_MAX_FILE} bytes")
    return text


def _check_types(found: Measurement) -> None:
    names = (found.device, found.unit, found.component)
    if not all(isinstance(name, str) and re.fullmatch(NAME.removesuffix("$"), name) for name in names):
        raise ValueError(f"device, unit and component are names, not {names}")
    if not isinstance(found.seconds, int | float) or isinstance(found.seconds, bool) or not 0 < found.seconds < 1e6:
        raise ValueError(f"seconds is a positive number, not {found.seconds!r}")
    if not all(isinstance(text, str) for text in (found.bundle, found.place, found.runtime)):
        raise ValueError("bundle, place and runtime are texts")
    if not found.graphs:
        raise ValueError("a component has a graph")


def measurement(
    bundle: Bundle, unit: ChosenUnit, component: str, seconds: float, place: str, runtime: str, origin: str = ""
) -> Measurement:
    """Returns a measured time of a bundle's component with what a fit needs.

    Args:
        bundle: whose files ran.
        unit: what they ran on.
        component: canonical name.
        seconds: of one call.
        place: what it was measured on, in the user's words.
        runtime: what ran it.
        origin: the run that it was taken from.

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
    return Measurement(unit.profile.name, unit.name, component, digest, seconds, place, runtime, graphs, origin)


@dataclass(frozen=True)
class Row:
    """A line of a file of measurements; `origin` names the run that it was taken from."""

    component: str
    seconds: float
    place: str
    runtime: str
    origin: str = ""


def read_rows(path: Path) -> tuple[Row, ...]:
    """Reads measured times from JSON: what `profile --measure --json` prints, or {"rows": [...]} alike.

    A row has "component", "seconds" or "milliseconds", "place" and "runtime".

    Raises:
        MeasurementError: no such file, or another content.
    """
    return rows_of(read_document(path), path)


def read_document(path: Path) -> Any:
    """Returns the values of a JSON file.

    Raises:
        MeasurementError: no such file, or no JSON.
    """
    try:
        return parse_json(read_bounded(path, _MAX_FILE))
    except (OSError, ValueError) as error:
        raise MeasurementError("measurements are read from a JSON file", f"{path}: {error}") from error


def rows_of(known: Any, path: Path) -> tuple[Row, ...]:
    """Returns the rows of a document, as `read_rows`.

    Args:
        known: its values.
        path: for errors.
    """
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
        found = Row(str(row["component"]), seconds, str(row["place"]), str(row.get("runtime") or ""))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MeasurementError(
            "a row has component, seconds or milliseconds, and place",
            f"{path}, row {number}: {type(error).__name__}: {error}",
        ) from error
    check_row(found, f"{path}, row {number}: ")
    return found


def check_row(row: Row, place: str = "") -> None:
    """Refuses a time of which nobody can tell what it is one of.

    Args:
        row: the time.
        place: of the row, before the value of an error.

    Raises:
        MeasurementError: it has no runtime, or was taken on a GPU made of software.
    """
    if not row.runtime.strip():
        raise MeasurementError(
            "a measured time says which runtime took it",
            f"{place}{row.component} has none",
            f'Add "runtime" (--runtime): {", ".join(RUNTIMES)}, or words of your own',
        )
    words = f"{row.runtime} {row.place}"
    if any(name in words.lower() for name in SOFTWARE):
        raise MeasurementError(
            "a time of a GPU made of software says nothing about a phone",
            f"{place}{words.strip()}",
            "Measure on the phone: sdmobile serve BUNDLE",
        )


def belongs(runtime: str, unit: ChosenUnit) -> bool:
    """Returns whether what a runtime measured says something about a unit.

    A runtime in the user's own words says so of every unit but a browser's, whose times have another engine.
    """
    for begin, kinds in _MEASURES:
        if runtime.startswith(begin):
            return unit.unit.runtime in kinds and _precision_fits(runtime, unit)
    return unit.unit.runtime != "ml-drift-webgpu"


def _precision_fits(runtime: str, unit: ChosenUnit) -> bool:
    """Returns whether a browser's run had the unit's precision; the others do not tell theirs."""
    if unit.unit.runtime != "ml-drift-webgpu":
        return True
    return runtime.endswith("float32" if unit.unit.element_bytes == 4 else "float16")
