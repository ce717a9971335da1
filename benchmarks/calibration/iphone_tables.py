"""The tables [units.NAME] and [latency.NAME] of the iPhones' profiles as TOML, from the fits.

python -m benchmarks.calibration.iphone_tables A16
python -m benchmarks.calibration.iphone_tables "A17 Pro"

They stand before the tables of a browser, which are no fit's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from benchmarks.calibration import iphone_metal
from benchmarks.calibration.iphone import PhoneFit, fitted, parameters
from benchmarks.calibration.iphone_rows import CHIPS
from sdmobile.prediction.kernels.core_ml import Engine
from sdmobile.prediction.latency import Parameters

_RUNTIME: dict[Engine, str] = {"neural-engine": "coreml-ne", "gpu": "coreml-gpu"}
_GPU = "cores, 128 per core and cycle, and clock of [hardware]; float16 is no faster than float32"
_DRAM = "dram_bandwidth of [hardware]"


def tables(chip: str) -> str:
    """Returns the tables of a phone.

    Args:
        chip: key of `CHIPS`.
    """
    known = CHIPS[chip]
    lines: list[str] = []
    for engine, runtime in _RUNTIME.items():
        found = fitted(engine)
        own = engine == "neural-engine"
        peak, source = (known.neural_macs, known.source) if own else (known.gpu_macs, _GPU)
        lines += _unit(engine, runtime, "", peak, known.dram, source)
        lines += _latency(engine, parameters(chip, found.values), *_trust(found, chip))
    efficiency = iphone_metal.dense_efficiency()
    unit = iphone_metal.metal_unit(known, efficiency)
    lines += _unit("gpu-metal", "ml-drift", 'gpu = "other"', known.gpu_macs, known.dram, _GPU)
    lines += _latency("gpu-metal", unit.parameters, *_metal_trust(efficiency))
    return "\n".join(lines).strip() + "\n"


def _trust(found: PhoneFit, chip: str) -> tuple[str, tuple[float, float] | None]:
    """The source of the fitted values, and the factors of the interval."""
    on_chip = sum(row.chip == chip for row in found.rows)
    families, publications = found.quality.median, found.by_publication.median
    error = f"median error {families:.0%} with families left out, {publications:.0%} with publications left out"
    if found.interval is None:
        error = "all of one publication, so that none could be left out"
    source = f"fitted to {len(found.rows)} published times of all chips, {on_chip} of this one; {error}"
    return source, found.interval


def _metal_trust(efficiency: float) -> tuple[str, None]:
    other = iphone_metal.TOTALS["M1 Ultra"]
    ratio = other.seconds / iphone_metal.total(iphone_metal.metal_unit(other.chip, efficiency))
    source = (
        "efficiency determined by one row, the total of Stable Diffusion 1.4 on an M4 Pro (ML Drift, arXiv 2505.00232);"
        f" the one other row, an M1 Ultra, takes {ratio:.1f} times the prediction; all other values are assumed"
    )
    return source, None


def _unit(name: str, runtime: str, gpu: str, peak: float, dram: float, source: str) -> Iterator[str]:
    yield f"[units.{name}]"
    yield f'runtime = "{runtime}"'
    if gpu:
        yield gpu
    yield "element_bytes = 2"
    yield ""
    yield from _fact(f"units.{name}.peak_macs", peak, "MAC/s", source, "low" if name == "neural-engine" else "medium")
    yield from _fact(f"units.{name}.dram_bandwidth", dram, "B/s", _DRAM, "medium")


def _latency(name: str, own: Parameters, source: str, interval: tuple[float, float] | None) -> Iterator[str]:
    for category, value in own.efficiency.items():
        yield from _fact(f"latency.{name}.efficiency.{category}", value, "", source, "low")
    for key, value, unit in (
        ("bandwidth", own.bandwidth, "B/s"),
        ("dispatch", own.dispatch, "s"),
        ("fixed", own.fixed, "s"),
    ):
        yield from _fact(f"latency.{name}.{key}", value, unit, source, "low")
    for key, value in zip(("low", "high"), interval or (), strict=False):
        text = f"80 % interval, finite-sample corrected, of rows left out with family or publication: {source}"
        yield from _fact(f"latency.{name}.{key}", value, "", text, "low")


def _fact(table: str, value: float, unit: str, source: str, reliability: str) -> Iterator[str]:
    yield f"[{table}]"
    yield f"value = {float(f'{value:.4g}')!r}"
    if unit:
        yield f'unit = "{unit}"'
    yield f'source = "{source}"'
    yield f'reliability = "{reliability}"'
    yield ""


if __name__ == "__main__":
    sys.stdout.write(tables(sys.argv[1]))
