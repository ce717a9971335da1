"""The tables of `sdmobile devices`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType
    from rich.table import Table

    from sdmobile.device_profiles.fact import Fact
    from sdmobile.device_profiles.model import DeviceProfile
    from sdmobile.prediction.compare import Difference
    from sdmobile.prediction.measurements import Measurement
    from sdmobile.prediction.measurements_fit import Refit


def listed(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Returns the table of all devices."""
    from rich.table import Table

    table = Table()
    table.add_column("device", no_wrap=True)
    for name in ("title", "chip", "target", "predictions for", "facts"):
        table.add_column(name)
    for row in rows:
        units = "\n".join(row["predictable"]) or "none"
        table.add_row(
            row["name"], row["title"], row["chip"], row["target"], units, f"{row['known']}\n{row['unknown']} unknown"
        )
    return table


def fact_tables(profile: DeviceProfile, facts: Mapping[str, Fact]) -> list[RenderableType]:
    """Returns every fact with its source, a table per part of the profile."""
    from rich.table import Table
    from rich.text import Text

    views: list[RenderableType] = [Text(f"{profile.title}: {profile.chip}; target {profile.target}", style="bold")]
    parts: dict[str, list[str]] = {}
    for name in facts:
        head = name.split(".")
        parts.setdefault(".".join(head[:2]) if head[0] in ("units", "latency") else head[0], []).append(name)
    for part, names in parts.items():
        title = f"{part} ({profile.units[part[6:]].runtime})" if part.startswith("units.") else part
        table = Table("fact", "value", "trust", "source", title=title, title_justify="left", title_style="bold")
        for name in names:
            fact = facts[name]
            table.add_row(name.removeprefix(f"{part}."), shown(fact), fact.reliability, fact.source)
        views.append(table)
    return views


def shown(fact: Fact | None) -> str:
    """Returns a fact's value and unit."""
    if fact is None:
        return "–"
    if fact.value is None:
        return "unknown"
    value = f"{fact.value:,}" if isinstance(fact.value, int) else fact.value
    value = f"{value:.4g}" if isinstance(value, float) else value
    return f"{value} {fact.unit}".strip()


def side_by_side(left: DeviceProfile, right: DeviceProfile, rows: Sequence[Difference]) -> Table:
    """Returns two devices fact by fact, with how far each can be trusted."""
    from rich.table import Table

    table = Table("fact", left.title, "trust", right.title, "trust")
    for row in rows:
        cells = [(shown(fact), "" if fact is None else fact.reliability) for fact in (row.left, row.right)]
        table.add_row(row.name, *cells[0], *cells[1], style="dim" if row.equal else "")
    return table


def stored_table(measurements: Sequence[Measurement]) -> Table:
    """Returns stored measurements."""
    from rich.table import Table

    table = Table("unit", "component", "files", "measured", "measured on", "runtime")
    for stored in measurements:
        table.add_row(
            stored.unit,
            stored.component,
            stored.bundle[:12],
            f"{1e3 * stored.seconds:.4g} ms",
            stored.place,
            stored.runtime,
        )
    return table


def refit_table(result: Refit) -> Table:
    """Returns measured times, and beside them what the old and the new profile predict."""
    from rich.table import Table

    note = "" if result.quality is None else f"median error of a row left out {result.quality.median:.1%}"
    few = "too few rows to leave any out: how well it predicts others is not known"
    table = Table("component", "measured on", title="own measurements", title_justify="left", caption=note or few)
    for name in ("measured", "predicted before", "predicted now", "row left out"):
        table.add_column(name, justify="right")
    for number, row in enumerate(result.measurements):
        left = "–" if result.left_out is None else f"{1e3 * result.left_out[number]:.4g} ms"
        times = (row.seconds, result.before[number], result.after[number])
        table.add_row(row.component, row.place, *(f"{1e3 * float(time):.4g} ms" for time in times), left)
    return table
