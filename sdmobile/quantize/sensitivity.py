"""What each layer's number format costs: error at the component's output and stored bytes, by layer and scheme."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.basics.untrusted import parse_json, read_bounded
from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SENSITIVITY_SCHEMA = 1
_MAX_FILE = 1 << 28
DEFAULT_SCHEMES = ("palette1", "palette2", "palette3", "palette4", "palette6", "palette8", "int8c", "fp16")
DIRECT, PROBES = "direct", "probes"


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """The table that a recipe is searched in.

    Errors are mean squared errors of the component's output against float32 when this one layer is compressed and all
    others are not. To first order the errors of different layers are uncorrelated, so that they add.

    Args:
        component: canonical name.
        source_hash: content hash of the checkpoint.
        schemes: names of the columns.
        layers: module paths of the rows.
        elements: [layers] weights of each layer.
        stored_bytes: [layers, schemes] with tables and scales; NaN where the scheme does not fit the layer.
        errors: by method, "probes" or "direct": [layers, schemes] mean squared error; NaN where not measured.
        power: mean square of the float32 output over the same inputs.
        peak: largest magnitude of that output.
        settings: prompts, seeds, steps, samples, probes: what the figures come from.
    """

    component: str
    source_hash: str
    schemes: tuple[str, ...]
    layers: tuple[str, ...]
    elements: NDArray[np.int64]
    stored_bytes: NDArray[np.float64]
    errors: Mapping[str, NDArray[np.float64]]
    power: float
    peak: float
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> NDArray[np.float64]:
        """[layers, schemes] error: measured directly where it was, else estimated."""
        direct, probes = self.errors.get(DIRECT), self.errors.get(PROBES)
        if direct is None or probes is None:
            return next(iter(self.errors.values()))
        return np.where(np.isnan(direct), probes, direct)

    @property
    def total_elements(self) -> int:
        """Weights in all layers of the table: what bits per weight are counted over."""
        return int(self.elements.sum())

    def psnr_db(self, error: float) -> float:
        """Returns 20·log₁₀(peak / √error) in dB: `basics.metrics.psnr` with the reference's peak."""
        return math.inf if error <= 0 else 20.0 * math.log10(self.peak / math.sqrt(error))

    def error_of(self, psnr_db: float) -> float:
        """Returns the mean squared error of a PSNR in dB."""
        return (self.peak / 10.0 ** (psnr_db / 20.0)) ** 2

    def bits(self, stored_bytes: float) -> float:
        """Returns average bits: stored bits, tables and scales included, per weight of the table's layers."""
        return 8.0 * stored_bytes / self.total_elements

    def to_json(self) -> dict[str, Any]:
        """Returns the table as a JSON object; NaN is null."""
        return {
            "schema_version": SENSITIVITY_SCHEMA,
            "component": self.component,
            "source_hash": self.source_hash,
            "schemes": list(self.schemes),
            "layers": list(self.layers),
            "elements": self.elements.tolist(),
            "stored_bytes": _nullable(self.stored_bytes),
            "errors": {method: _nullable(table) for method, table in self.errors.items()},
            "power": self.power,
            "peak": self.peak,
            "settings": dict(self.settings),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sensitivity:
        """Returns the table that `to_json` wrote.

        Raises:
            UnsupportedError: it is something else.
        """
        try:
            if data["schema_version"] != SENSITIVITY_SCHEMA:
                raise ValueError(f"schema_version {data['schema_version']}")
            sensitivity = cls(
                component=data["component"],
                source_hash=data["source_hash"],
                schemes=tuple(data["schemes"]),
                layers=tuple(data["layers"]),
                elements=np.array(data["elements"], np.int64),
                stored_bytes=_table(data["stored_bytes"]),
                errors={method: _table(table) for method, table in data["errors"].items()},
                power=float(data["power"]),
                peak=float(data["peak"]),
                settings=dict(data["settings"]),
            )
            shape = (len(sensitivity.layers), len(sensitivity.schemes))
            if {sensitivity.stored_bytes.shape, *(table.shape for table in sensitivity.errors.values())} != {shape}:
                raise ValueError(f"tables must have {shape[0]} rows of {shape[1]}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UnsupportedError(
                "sensitivities are what `sdmobile quantize analyze` wrote", error, "Run it again."
            ) from error
        return sensitivity


def load_sensitivity(path: Path) -> Sensitivity:
    """Reads what `quantize analyze` wrote.

    Raises:
        UnsupportedError: the file cannot be read or is something else.
    """
    try:
        data = parse_json(read_bounded(path, _MAX_FILE), finite=False)
    except (OSError, ValueError) as error:
        raise UnsupportedError("sensitivities must be readable JSON", f"{path}: {error}") from error
    return Sensitivity.from_json(data)


def rank_correlation(sensitivity: Sensitivity) -> float | None:
    """Returns Spearman's ρ between estimate and direct measurement over all cells that have both, or None."""
    if not {DIRECT, PROBES} <= set(sensitivity.errors):
        return None
    from scipy.stats import spearmanr

    direct, probes = sensitivity.errors[DIRECT], sensitivity.errors[PROBES]
    both = ~np.isnan(direct) & ~np.isnan(probes)
    return float(spearmanr(direct[both], probes[both])[0]) if both.sum() > 2 else None  # pyright: ignore[reportArgumentType]


def _nullable(table: NDArray[np.float64]) -> list[list[float | None]]:
    return [[None if math.isnan(value) else value for value in row] for row in table.tolist()]


def _table(rows: Any) -> NDArray[np.float64]:
    return np.array([[math.nan if value is None else float(value) for value in row] for row in rows], np.float64)
