"""Writes fitted values into a profile's TOML and tables into a page, between marks, and leaves the rest alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.calibration import adreno, stable_diffusion
from benchmarks.calibration.adreno_fit import AdrenoFit, rounded
from sdmobile.device_profiles import profile_path
from sdmobile.device_profiles.fact import Fact
from sdmobile.errors import UnsupportedError
from sdmobile.prediction.latency import Parameters

PROFILE = profile_path("galaxy-s23-ultra")
START, END = "# fitted: python -m benchmarks.calibration --write", "# end of the fitted values"
Tables = Mapping[str, Mapping[str, str | int | Fact]]


def profile_tables(result: AdrenoFit) -> Tables:
    """Returns the tables [units.*] and [latency.*] of the S23 Ultra."""
    engine = stable_diffusion.engine_unit(result.values).parameters
    delegate_source, engine_source = _sources(result)
    return {
        "units.gpu": _unit("ml-drift"),
        "units.tflite-gpu": _unit("tflite-gpu"),
        **_latency("gpu", result, engine, engine_source, "low"),
        **_latency("tflite-gpu", result, adreno.model_parameters(result.values), delegate_source, "medium"),
    }


def _sources(result: AdrenoFit) -> tuple[str, str]:
    rows = f"{len(result.fitted)} S23 GPU rows of MobileNetV4 Table 6 (arXiv 2404.10518) and AI Hub"
    families, publications = result.by_family.median, result.by_publication.median
    error = f"median error {families:.1%} with families left out, {publications:.1%} with publications left out"
    delegate = f"fitted to {rows}; {error}"
    total = f"{stable_diffusion.PUBLISHED_TOTAL:g} s for SD1.4, 512x512, {stable_diffusion.STEPS} steps, batch 2"
    engine = "the classic delegate's times one factor, set such that the published total comes out"
    return delegate, f"{engine}: {total} (arXiv 2304.11267); one number, no check"


def _unit(runtime: str) -> dict[str, str | int | Fact]:
    peak = "derived: 2560 lanes at 719 MHz, twice as many in float16: hardware.gpu_fp16_peak / 2"
    memory = "derived: 8.4 GT/s times 8 bytes: hardware.dram_bandwidth"
    return {
        "runtime": runtime,
        "gpu": "adreno7xx",
        "element_bytes": 2,
        "peak_macs": Fact(value=adreno.PEAK_MACS, unit="MAC/s", source=peak, reliability="low"),
        "dram_bandwidth": Fact(value=adreno.PEAK_BANDWIDTH, unit="bytes/s", source=memory, reliability="medium"),
    }


def _latency(
    name: str, result: AdrenoFit, own: Parameters, dense_source: str, dense_reliability: str
) -> dict[str, dict[str, Fact]]:
    source, _ = _sources(result)
    shared = source if name == "tflite-gpu" else f"the classic delegate's, same GPU: {source}"
    units = {"bandwidth": "bytes/s", "dispatch": "s", "fixed": "s"}

    def fact(value: float, unit: str = "", text: str = shared, reliability: str = "medium") -> Fact:
        return Fact.model_validate({"value": value, "unit": unit, "source": text, "reliability": reliability})

    tables = {f"latency.{name}.{key}": {"": fact(result.values[key], unit)} for key, unit in units.items()}
    tables[f"latency.{name}.reorder"] = {"": fact(result.values["reorder_share"])}
    if name == "tflite-gpu" and result.interval is not None:  # of the current engine no row was ever left out
        interval = "80 % interval, finite-sample corrected, of rows left out with family or publication: " + shared
        for key, factor in zip(("low", "high"), result.interval, strict=True):
            tables[f"latency.{name}.{key}"] = {"": fact(rounded(factor), text=interval)}
    if name == "gpu":
        tables[f"latency.{name}.load_bandwidth"] = {"": _load_rate()}
    for table, entries, unit in (("efficiency", own.efficiency, ""), ("fetch_rate", own.fetch_rate, "1/s")):
        for category, value in entries.items():
            dense = category in stable_diffusion.DENSE
            text, trust = (dense_source, dense_reliability) if dense else (shared, "medium")
            tables[f"latency.{name}.{table}.{category}"] = {"": fact(rounded(value), unit, text, trust)}
    return tables


def _load_rate() -> Fact:
    """Weights loaded and compiled per second, from the one publication that tells it, of another phone."""
    text = (
        "2,736 MB in 35 s: three text encoder parts of FLUX.2-klein on a Pixel 8a (Mali-G715), loaded, compiled, run "
        "once each (john-rocky/LiteRT-Models, klein/README.md); another phone's, so an order of magnitude"
    )
    return Fact(value=7.8e7, unit="bytes/s", source=text, reliability="low")


def toml(tables: Tables) -> str:
    """Returns tables as TOML text; an entry without a name is the table's own content."""
    return "\n\n".join("\n".join(_table(name, entries)) for name, entries in tables.items())


def _table(name: str, entries: Mapping[str, str | int | Fact]) -> Iterator[str]:
    if "" in entries:
        content = entries[""]
        assert isinstance(content, Fact)
        yield f"[{name}]"
        yield from _fact(content)
        return
    yield f"[{name}]"
    for key, value in entries.items():
        if not isinstance(value, Fact):
            yield f"{key} = {json.dumps(value)}"
    for key, value in entries.items():
        if isinstance(value, Fact):
            yield f"\n[{name}.{key}]"
            yield from _fact(value)


def _fact(fact: Fact) -> Iterator[str]:
    yield f"value = {fact.value!r}"
    if fact.unit:
        yield f"unit = {json.dumps(fact.unit)}"
    yield f"source = {json.dumps(fact.source, ensure_ascii=False)}"
    yield f"reliability = {json.dumps(fact.reliability)}"


def replace_between(text: str, start: str, end: str, content: str) -> str:
    """Returns a text with new content between two marks.

    Raises:
        UnsupportedError: the marks are missing or not in order.
    """
    head, mark, rest = text.partition(start)
    _, closing, tail = rest.partition(end)
    if not mark or not closing:
        raise UnsupportedError("the file must have the marks of generated text", f"{start} ... {end}")
    return f"{head}{start}\n{content}\n{end}{tail}"


def write_profile(result: AdrenoFit, path: Path = PROFILE) -> None:
    """Writes the fitted values into the profile; nothing else in it changes."""
    text = replace_between(path.read_text(), START, END, "\n" + toml(profile_tables(result)) + "\n")
    _replace(path, text)


def write_page(sections: Mapping[str, str], path: Path) -> None:
    """Writes tables into a page, each between `<!-- NAME -->` and `<!-- end NAME -->`."""
    text = path.read_text()
    for name, content in sections.items():
        text = replace_between(text, f"<!-- {name} -->", f"<!-- end {name} -->", "\n" + content + "\n")
    _replace(path, text)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text)
    temporary.replace(path)
