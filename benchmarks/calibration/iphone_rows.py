"""Published Core ML times of iPhones (and of Macs, for the GPU), and the chips they were measured on."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, cast

from sdmobile.formats.graph import FileGraph
from sdmobile.prediction.graph_json import decode
from sdmobile.prediction.kernels import Kernel
from sdmobile.prediction.kernels.core_ml import Engine, core_ml_kernels

_DATA = Path(__file__).resolve().parent / "data/iphone"
_FAMILIES = ("mobilenet_v2", "mobilenet_v4", "mobileone", "fastvit", "efficientvit", "sd15", "depth_anything")
PUBLICATIONS = ("MobileNetV4", "apple/ml-stable-diffusion", "SnapFusion", "model card")
_IMAGE = {"text_encoder": 2, "unet": 0, "vae_decoder": 1}
"""Components of an image by the end of their graph's name, and their calls; 0 stands for the number of steps."""


@dataclass(frozen=True)
class Chip:
    """What the model takes from a chip.

    Args:
        neural_macs: multiply-accumulates per second of the Neural Engine in float16; 0 if no row needs it.
        gpu_macs: of the GPU, from its peak in float32, which is also that in float16.
        dram: peak of the memory, bytes per second.
        source: of the Neural Engine's peak.
    """

    neural_macs: float
    gpu_macs: float
    dram: float
    source: str


def gpu_macs(cores: int, gigahertz: float) -> float:
    """Returns the peak of an Apple GPU: 128 per core and cycle (philipturner/metal-benchmarks, measured)."""
    return cores * 128 * gigahertz * 1e9


CHIPS: Mapping[str, Chip] = {
    "A14": Chip(5.5e12, 0.0, 34.1e9, "11 TOPS (Apple), taken as float16"),
    "A15": Chip(7.9e12, 0.0, 34.1e9, "15.8 TOPS (Apple), taken as float16"),
    "A16": Chip(8.5e12, gpu_macs(5, 1.398), 51.2e9, "17 TOPS (Apple), taken as float16; int8 or float16 not stated"),
    "A17 Pro": Chip(8.75e12, gpu_macs(6, 1.38), 51.2e9, "35 TOPS (Apple, int8), half of it taken for float16"),
    "M1 Max, 24 cores": Chip(0.0, gpu_macs(24, 1.296), 400e9, ""),
    "M1 Max, 32 cores": Chip(0.0, gpu_macs(32, 1.296), 400e9, ""),
    "M1 Ultra, 48 cores": Chip(0.0, gpu_macs(48, 1.296), 800e9, ""),
    "M1 Ultra, 64 cores": Chip(0.0, gpu_macs(64, 1.296), 800e9, ""),
}


@dataclass(frozen=True)
class PhoneRow:
    """One published time.

    Args:
        model: name, with the device where several have it.
        graph: name of the stored graph; that of an image without the component.
        calls: of the UNet in what was timed.
        chip: key of CHIPS.
        engine: the unit that the row is taken for.
        seconds: as published.
        weight_bits: stored bits per weight.
        use: "fit", or "check" for what is only compared.
        source: publication.
        note: what is known or taken about the conditions.
    """

    model: str
    graph: str
    calls: int
    chip: str
    engine: Engine
    seconds: float
    weight_bits: int
    use: Literal["fit", "check"]
    source: str
    note: str

    @property
    def family(self) -> str:
        """Models of one design; all parts of Stable Diffusion are one."""
        return next(family for family in _FAMILIES if self.graph.startswith(family))

    @property
    def publication(self) -> str:
        """Whose rows share conditions that were not published; Apple's model cards are one."""
        return next(name for name in PUBLICATIONS if self.source.startswith(name))


@cache
def phone_rows() -> tuple[PhoneRow, ...]:
    """Returns all rows whose graph is stored."""
    stored = phone_graphs()
    return tuple(row for row in published() if any(graph.startswith(row.graph) for graph in stored))


@cache
def published() -> tuple[PhoneRow, ...]:
    """Returns all rows, with a stored graph or without."""
    with (_DATA / "core_ml.csv").open(newline="", encoding="utf-8") as stream:
        return tuple(_row(line) for line in csv.DictReader(stream))


def _row(line: dict[str, str]) -> PhoneRow:
    return PhoneRow(
        model=line["model"],
        graph=line["graph"],
        calls=int(line["calls"]),
        chip=line["chip"],
        engine=cast(Engine, line["unit"]),
        seconds=float(line["milliseconds"]) * 1e-3,
        weight_bits=int(line["weight_bits"]),
        use=cast(Literal["fit", "check"], line["use"]),
        source=line["source"],
        note=line["note"],
    )


def phone_graphs() -> tuple[str, ...]:
    """Returns the names of the stored Core ML graphs."""
    return tuple(sorted(path.name.removesuffix(".json.gz") for path in (_DATA / "graphs").glob("*.json.gz")))


@cache
def phone_graph(name: str) -> FileGraph:
    """Reads a stored Core ML graph."""
    return decode(json.loads(gzip.decompress((_DATA / "graphs" / f"{name}.json.gz").read_bytes())))


def kernels(row: PhoneRow) -> tuple[Kernel, ...]:
    """Returns everything that was timed, repeated as often as it ran."""
    if row.graph in phone_graphs():
        return tuple(_compressed(kernel, row.weight_bits) for kernel in _kernels(row.graph, row.engine)) * row.calls
    parts = (_kernels(f"{row.graph}_{part}", row.engine) * (calls or row.calls) for part, calls in _IMAGE.items())
    return tuple(kernel for part in parts for kernel in part)


@cache
def _kernels(graph: str, engine: Engine) -> tuple[Kernel, ...]:
    return core_ml_kernels(phone_graph(graph), engine)


def _compressed(kernel: Kernel, bits: int) -> Kernel:
    return kernel if bits == 16 else replace(kernel, weight_bytes=kernel.weight_bytes * bits // 16)
