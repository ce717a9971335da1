"""Published measurements as rows: which model, by which runtime, how long, and who says so."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, cast

Use = Literal["fit", "check"]
_DATA = Path(__file__).resolve().parent / "data"


@dataclass(frozen=True)
class PublishedRow:
    """One published time.

    Args:
        model: name in the publication.
        family: models of one design, which a strict test leaves out together.
        publication: whose rows share conditions that were not published, and are left out together by another test.
        graph: name of the stored graph.
        runtime: "tflite-gpu" (classic delegate) or "smartmem".
        seconds: of one inference.
        rounding: half of the last published digit, seconds.
        gmacs: published multiply-accumulates, in 1e9; None if not published.
        gmacs_rounding: half of their last digit.
        use: "fit" for fitting, "check" for what is only compared.
        source: publication.
        note: what is known or inferred about the conditions.
    """

    model: str
    family: str
    publication: str
    graph: str
    runtime: str
    seconds: float
    rounding: float
    gmacs: float | None
    gmacs_rounding: float
    use: Use
    source: str
    note: str


@cache
def published_rows(name: str) -> tuple[PublishedRow, ...]:
    """Returns the rows of a table of the package, such as "adreno_740"."""
    with (_DATA / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
        return tuple(_row(line) for line in csv.DictReader(stream))


def _row(line: dict[str, str]) -> PublishedRow:
    return PublishedRow(
        model=line["model"],
        family=line["family"],
        publication=line["publication"],
        graph=line["graph"],
        runtime=line["runtime"],
        seconds=float(line["milliseconds"]) * 1e-3,
        rounding=float(line["rounding_ms"]) * 1e-3,
        gmacs=float(line["gmacs"]) if line["gmacs"] else None,
        gmacs_rounding=float(line["gmacs_rounding"] or 0.0),
        use=cast(Use, line["use"]),
        source=line["source"],
        note=line["note"],
    )
