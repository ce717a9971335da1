"""Fits a unit's parameters again to a user's own measurements, from the values of its profile on."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sdmobile.device_profiles.fact import Fact
from sdmobile.device_profiles.profile_file import read_profile
from sdmobile.device_profiles.runtime_rules.kernel import Category
from sdmobile.prediction.assess_device import ChosenUnit
from sdmobile.prediction.fit import Parameter, Problem, Quality, Vector, fit, leave_one_out, quality
from sdmobile.prediction.kernels import kernels_of
from sdmobile.prediction.latency import Features, Parameters, features, seconds
from sdmobile.prediction.measurements import Measurement, MeasurementError

_SPREAD = {"high": 1.2, "medium": 1.5, "low": 2.0}
_WIDE = 20.0
_FEWEST_FOR_ERRORS = 3
_DIGITS = 4
_NOT_GUESSED = ("low", "high", "load_bandwidth", "compile")


@dataclass(frozen=True)
class Refit:
    """A fit to a user's measurements.

    Args:
        measurements: the rows.
        values: of the profile's entries below latency.UNIT, by name.
        before, after: predicted seconds of every row by the old values and by the new ones.
        left_out: predicted by a fit without the row; None for too few rows.
        quality: of the predictions left out, None likewise.
    """

    measurements: tuple[Measurement, ...]
    values: Mapping[str, float]
    before: Vector
    after: Vector
    left_out: Vector | None
    quality: Quality | None


def refit(unit: ChosenUnit, measurements: Sequence[Measurement]) -> Refit:
    """Fits a unit's parameters to measurements; the profile's values count as guesses, by their reliability.

    Args:
        unit: the device and its unit.
        measurements: of this unit; others are left out.

    Raises:
        MeasurementError: none is of the unit.
    """
    rows = tuple(row for row in measurements if row.unit == unit.name)
    if not rows:
        raise MeasurementError(
            "a fit needs measurements of the unit",
            f"none for {unit.profile.name}, {unit.name}",
            "Store some: sdmobile devices add-measurement",
        )
    entries = _entries(unit)
    problem = _problem(unit, entries, rows)
    fitted = np.array([float(f"{value:.{_DIGITS}g}") for value in fit(problem)])
    values = {name: float(value) for names, value in zip(entries, fitted, strict=True) for name in names}
    left_out = leave_one_out(problem) if len(rows) >= _FEWEST_FOR_ERRORS else None
    judged = None if left_out is None else quality(left_out, problem.measured)
    if judged is not None and left_out is not None:
        values |= _interval(unit, judged, problem.measured / left_out)
    guesses = np.array([parameter.guess for parameter in problem.parameters])
    return Refit(rows, values, problem.predict(guesses), problem.predict(fitted), left_out, judged)


def _interval(unit: ChosenUnit, judged: Quality, ratios: Vector) -> dict[str, float]:
    """Returns the factors of the interval: that of the rows left out; with few of them, the old one made wider."""
    if judged.low is not None and judged.high is not None:
        low, high = judged.low, judged.high
    elif unit.model.low is not None and unit.model.high is not None:
        low, high = min(ratios.min(), unit.model.low), max(ratios.max(), unit.model.high)
    else:
        return {}
    return {"low": float(f"{low:.{_DIGITS}g}"), "high": float(f"{high:.{_DIGITS}g}")}


def _entries(unit: ChosenUnit) -> dict[tuple[str, ...], Parameter]:
    """What is fitted: equal efficiencies as one parameter, and equal rates; a value of 0 stays 0."""
    latency = unit.latency
    facts = {"bandwidth": latency.bandwidth, "dispatch": latency.dispatch, "fixed": latency.fixed}
    facts |= {} if latency.saturation is None else {"saturation": latency.saturation}
    groups = _equal("efficiency", latency.efficiency, 1.0) | _equal("fetch_rate", latency.fetch_rate, math.inf)
    for name, fact in facts.items():
        if value := float(fact.value or 0.0):
            groups[name,] = Parameter(name, value, _SPREAD[str(fact.reliability)], value / _WIDE, value * _WIDE)
    return groups


def _equal(table: str, facts: Mapping[Category, Fact], most: float) -> dict[tuple[str, ...], Parameter]:
    """Returns a parameter for each value that categories share.

    Args:
        table: name below the unit.
        facts: by category.
        most: no value is larger.
    """
    groups: dict[tuple[str, ...], Parameter] = {}
    by_value: dict[float, list[Category]] = {}
    for category, fact in facts.items():
        by_value.setdefault(float(fact.value or 0.0), []).append(category)
    for value, categories in by_value.items():
        names = tuple(f"{table}.{category}" for category in categories)
        if value:
            spread = _SPREAD[str(facts[categories[0]].reliability)]
            highest = max(value, min(most, value * _WIDE))
            groups[names] = Parameter(names[0], value, spread, value / _WIDE, highest)
    return groups


def _problem(unit: ChosenUnit, entries: Mapping[tuple[str, ...], Parameter], rows: Sequence[Measurement]) -> Problem:
    model = unit.model
    work = [features_of(unit, row) for row in rows]

    def predict(vector: Vector) -> Vector:
        values = {name: float(value) for names, value in zip(entries, vector, strict=True) for name in names}
        own = _with(model.parameters, values)
        times = [sum(own.fixed + seconds(each, model.peak_macs, own).sum() for each in files) for files in work]
        return np.array(times, np.float64)

    return Problem(tuple(entries.values()), predict, np.array([row.seconds for row in rows]))


def features_of(unit: ChosenUnit, row: Measurement) -> list[Features]:
    """Returns what a unit's runtime would do for each graph of a measurement.

    Raises:
        MeasurementError: a graph makes no sense; it may be somebody else's.
        UnsupportedError: the unit runs no such files.
    """
    try:
        kernels = [kernels_of(graph, unit.unit, unit.rules) for graph in row.graphs]
        return [features(each, unit.unit.element_bytes) for each in kernels]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise MeasurementError(
            "the graph of a measurement must be one that a file can have",
            f"{row.component}, {row.origin or row.place}: {type(error).__name__}: {error}",
            f"Delete the file of {row.seconds:g} s in the folder of measurements",
        ) from error


def _with(parameters: Parameters, values: Mapping[str, float]) -> Parameters:
    """Returns parameters with some values replaced."""
    tables = {"efficiency": dict(parameters.efficiency), "fetch_rate": dict(parameters.fetch_rate)}
    plain: dict[str, float] = {}
    for name, value in values.items():
        table, _, category = name.partition(".")
        (tables[table] if category else plain)[category or table] = value
    return replace(parameters, efficiency=tables["efficiency"], fetch_rate=tables["fetch_rate"], **plain)


def guessed_tables(text: str, unit: str, guesses: str) -> list[str]:
    """Returns the tables that a unit which nobody measured before begins with: another unit's, trusted little.

    Args:
        text: of the profile.
        unit: name of the unit.
        guesses: the other unit's name.
    """
    kept, lines = False, []
    for line in text.splitlines():
        if header := re.match(r"\[([^\[\]]+)\]", line):
            before, dot, entry = header[1].strip().rpartition(f"latency.{guesses}.")
            kept = bool(dot) and not before and entry not in _NOT_GUESSED
            line = f"[latency.{unit}.{entry}]"
        if kept:
            line = 'reliability = "low"' if re.match(r"reliability\s*=", line) else line
            lines.append(re.sub(r'^source\s*=\s*"', f'source = "a guess, the value of {guesses}: ', line))
    return ["", *lines] if lines else []


def refitted_toml(text: str, unit: str, result: Refit, name: str, guesses: Sequence[str] = ()) -> str:
    """Returns a profile's TOML with the fitted values in it; all other lines stay as they are.

    Args:
        text: of the profile.
        unit: name of the unit.
        result: of the fit.
        name: of the new profile.
        guesses: lines of tables that the profile lacks.
    """
    error = "" if result.quality is None else f"; median error of a row left out {result.quality.median:.0%}"
    source = f"fitted to {len(result.measurements)} own measurements, from the profile's value on{error}"
    section, lines = "", []
    for line in [*text.splitlines(), *guesses]:
        header = re.match(r"\[([^\[\]]+)\]\s*(#.*)?$", line)
        section = header[1].strip() if header else section
        entry = section.removeprefix(f"latency.{unit}.") if section.startswith(f"latency.{unit}.") else ""
        if not section and re.match(r"name\s*=", line):
            line = f'name = "{name}"'
        elif entry in result.values and re.match(r"value\s*=", line):
            line = f"value = {result.values[entry]!r}"
        elif entry in result.values and re.match(r"source\s*=", line):
            line = f'source = "{source}"'
        lines.append(line)
    there = {line.strip() for line in lines}
    for entry, value in result.values.items():
        if (table := f"[latency.{unit}.{entry}]") not in there and entry in ("low", "high"):
            lines += ["", table, f"value = {value!r}", f'source = "{source}"', 'reliability = "low"']
    return "\n".join(lines) + "\n"


def write_refitted(source: Path, unit: str, result: Refit, output: Path, overwrite: bool = False) -> None:
    """Writes a profile with the fitted values as a new file.

    Args:
        source: the profile that was fitted; it stays as it is.
        unit: name of the unit.
        result: of the fit.
        output: new TOML file.
        overwrite: whether an existing file may be replaced.

    Raises:
        OutputError: the output exists or is the source.
        MeasurementError: the source's latency values are not written as tables of their own.
    """
    from sdmobile.basics.files import write_whole
    from sdmobile.basics.scratch import temporary_folder
    from sdmobile.errors import OutputError

    if output.suffix != ".toml":
        raise OutputError("a profile is a TOML file", output, "Name it FILE.toml")
    if output.exists() and (not overwrite or output.resolve() == source.resolve()):
        raise OutputError("the new profile must not exist yet", output, "Choose another --output, or add --overwrite")
    text, known = source.read_text("utf-8"), read_profile(source)
    first = known.units[unit].guesses
    guesses = [] if unit in known.latency or first is None else guessed_tables(text, unit, first)
    text = refitted_toml(text, unit, result, output.stem, guesses)
    with temporary_folder("profile") as folder:
        trial = folder / output.name
        trial.write_text(text, "utf-8")
        latency = read_profile(trial).latency[unit].model_dump()
    for name, value in result.values.items():
        entry = latency
        for part in name.split("."):
            entry = entry[part]
        if entry["value"] != value:
            raise MeasurementError(
                "fitted values can be written only into tables of their own",
                f"latency.{unit}.{name}",
                f"Write [latency.{unit}.{name}] with value, source and reliability on lines of their own",
            )
    write_whole(output, text.encode(), overwrite)
