"""The ablation of rewrite rules as tables of text: what was measured, and apart from it what is predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdmobile.basics.words import UNKNOWN, megabytes

HEADINGS = ("rules so far", "places", "ops", "in file", "peak", "f32 dB", "f16 dB", "file dB", "ms", "faster")
PREDICTED = ("rules so far", "predicted ms", "interval", "faster")
Rows = Sequence[Mapping[str, Any]]
"""What `Ablation.to_json()` returns."""


def cells(rows: Rows) -> list[tuple[str, ...]]:
    """Returns the table under HEADINGS; "faster" is the first row's time over this row's."""
    first = rows[0]["measured"]["median_ms"]
    return [_cells(row, first, index == 0) for index, row in enumerate(rows)]


def _cells(row: Mapping[str, Any], first: float | None, captured: bool) -> tuple[str, ...]:
    measured, cost = row["measured"], row["cost"]
    operators, median = measured["file_operators"], measured["median_ms"]
    return (
        _rule(row, captured),
        UNKNOWN if captured else str(row["applied"]),
        str(cost["operator_count"]),
        UNKNOWN if operators is None else str(operators),
        megabytes(cost["peak_bytes"]),
        "same" if row["float32_db"] is None else f"{row['float32_db']:.1f}",
        f"{row['float16_db']:.1f}",
        UNKNOWN if measured["file_db"] is None else f"{measured['file_db']:.1f}",
        UNKNOWN if median is None else f"{median:.1f}",
        UNKNOWN if median is None or first is None else f"{first / median:.2f}×",
    )


def predicted_cells(rows: Rows) -> list[tuple[str, ...]]:
    """Returns the table under PREDICTED; "faster" is as in `cells`. Empty without predictions."""
    if "predicted" not in rows[0]:
        return []
    first = rows[0]["predicted"]["milliseconds"]
    table: list[tuple[str, ...]] = []
    for index, row in enumerate(rows):
        name, predicted = _rule(row, index == 0), row["predicted"]
        if predicted["milliseconds"] is None:
            table.append((name, UNKNOWN, UNKNOWN, UNKNOWN))
            continue
        ratio = UNKNOWN if first is None else f"{first / predicted['milliseconds']:.2f}×"
        low, high = predicted["low"], predicted["high"]
        interval = UNKNOWN if low is None or high is None else f"{low:.3g} – {high:.3g}"
        table.append((name, f"{predicted['milliseconds']:.3g}", interval, ratio))
    return table


def _rule(row: Mapping[str, Any], captured: bool) -> str:
    return row["rule"] if captured else f"+ {row['rule']}"


def predicted_title(rows: Rows) -> str:
    """Returns what the predictions are for."""
    phone = rows[0]["predicted"]
    return f"predicted for {phone['device']}, {phone['unit']}, from the files; not measured"


def legend(rows: Rows) -> str:
    """Returns what the columns mean."""
    clock = rows[0]["measured"]["clock"]
    time = "" if clock is None else f" ms: median, {clock}, the states taking turns; faster: first row over this one."
    return (
        "ops: operators of the graph; in file: of the exported file. peak: intermediates of the graph in float16. "
        "f32, f16: PSNR of the graph against the captured one in float32, and with every value rounded to float16. "
        "file: PSNR of the exported file against float32 PyTorch." + time
    )


def markdown(heading: str, rows: Rows) -> str:
    """Writes both tables as Markdown."""
    lines = [f"### {heading}", "", *_table(HEADINGS, cells(rows)), "", legend(rows), ""]
    if predicted := predicted_cells(rows):
        lines += [predicted_title(rows) + ":", "", *_table(PREDICTED, predicted), ""]
    return "\n".join(lines)


def _table(headings: tuple[str, ...], table: list[tuple[str, ...]]) -> list[str]:
    head = [" | ".join(("", *headings, "")).strip(), "|---" * len(headings) + "|"]
    return [*head, *("| " + " | ".join(row) + " |" for row in table)]
