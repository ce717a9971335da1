"""What `sdmobile profile` shows: tables of predicted values, and apart from them a table of measured ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmobile.basics.words import megabytes, short_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType
    from rich.table import Table

    from sdmobile.prediction.assess import Assessment
    from sdmobile.prediction.component_cost import ComponentCost
    from sdmobile.prediction.memory_budget import BudgetCheck
    from sdmobile.validate.measure import Measurements


def predicted_views(result: Assessment, top: int) -> list[RenderableType]:
    """Returns the tables of a prediction and the footnote about its sources.

    Args:
        result: the prediction.
        top: how many of the costliest kernels.
    """
    views: list[RenderableType] = [_components(result), *_image(result), *_precisions(result), _memory(result)]
    if top:
        views.append(_costliest(result, top))
    if result.savings:
        views.append(_savings(result))
    return [*views, *_footnotes(result)]


def _titled(title: str) -> Table:
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold")


def _columns(table: Table, left: Sequence[str], right: Sequence[str], last: str | None = None) -> Table:
    for name in left:
        table.add_column(name, overflow="fold", no_wrap=name == "component")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    if last is not None:
        table.add_column(last, overflow="fold")
    return table


def _components(result: Assessment) -> Table:
    device = result.device
    title = f"{result.name} on {device.profile.title}, {device.name} ({device.unit.runtime}): predicted, one call"
    headings = ("time", "interval", "calls", "file", "weights", "arena", "load")
    table = _columns(_titled(title), ("component",), headings)
    for part in result.components:
        latency = part.prediction
        table.add_row(
            part.name,
            short_time(latency.seconds),
            _interval(latency.low, latency.high),
            str(part.calls) if part.calls else "–",
            megabytes(part.file_bytes),
            megabytes(sum(memory.resident for memory in part.memory)),
            megabytes(max(memory.activations.arena for memory in part.memory)),
            _load(part),
        )
    return table


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{short_time(low)} – {short_time(high)}"


def _load(part: ComponentCost) -> str:
    first = part.prediction.first_run
    known = [value for value in (first.load, first.compile) if value is not None]
    return short_time(sum(known)) if known else "unknown"


def _image(result: Assessment) -> list[RenderableType]:
    from rich.text import Text

    lines: list[RenderableType] = []
    if result.image is not None:
        image = result.image
        parts = (
            f"encoders {short_time(image.text)}, denoising {short_time(image.unet)}, "
            f"decoder {short_time(image.decoder)}"
        )
        interval = _interval(image.low, image.high)
        head = f"image, {result.steps} steps, guidance {result.guidance}: predicted {short_time(image.seconds)}"
        within = "" if image.low is None else f" ({interval})"
        lines.append(Text(f"{head}{within}: {parts}", style="bold"))
    if result.separate is not None and result.batched is not None:
        calls = {2: "two", 3: "three"}.get(result.rows, str(result.rows))
        ways = (
            f"one call at batch {result.rows} {short_time(result.batched)}, {calls} calls {short_time(result.separate)}"
        )
        lines.append(Text(f"guided step, predicted: {ways}"))
    return lines


def _precisions(result: Assessment) -> list[Table]:
    """One call, and an image, at each precision that an Android app can ask for."""
    rows = [(part.name, part.precisions) for part in result.components] + [("image", result.precisions)]
    rows = [(name, costs) for name, costs in rows if costs]
    if not rows:
        return []
    title = "GpuOptions.precision, predicted: between these bounds (docs/latency-model.md)"
    table = _columns(_titled(title), ("component",), [cost.precision for cost in rows[0][1]])
    for name, costs in rows:
        one_number = (short_time(cost.least) if cost.least == cost.most else "" for cost in costs)
        table.add_row(
            name,
            *(number or _interval(cost.least, cost.most) for number, cost in zip(one_number, costs, strict=True)),
        )
    return [table]


def _memory(result: Assessment) -> Table:
    chosen = " in FP16, twice as much or more in FP32" if any(part.precisions for part in result.components) else ""
    title = f"memory, predicted: weights and arenas{chosen}; images, predicted: with loading"
    table = _columns(_titled(title), ("loading", "verdict", "advice"), ("first image", "further"))
    times = {one.loading: (short_time(one.first), short_time(one.further)) for one in result.turns}
    for check in result.budgets:
        advice = "\n".join(f"{way.text}: {megabytes(way.needed)}" for way in check.advice)
        small = (
            check.fits is None and result.device.ram_bytes is not None and 10 * check.needed < result.device.ram_bytes
        )
        words = (check.loading, verdict(check, result.device.ram_bytes), "–" if small else advice or "–")
        table.add_row(*words, *times.get(check.loading, ("unknown", "unknown")))
    return table


def verdict(check: BudgetCheck, ram: int | None) -> str:
    """Returns whether a bundle fits, in words.

    Args:
        check: of the bundle.
        ram: bytes of the device, told where it is not known how much an app may use.
    """
    if check.fits is None:
        return check.sentence if ram is None else f"{check.sentence} of the {megabytes(ram)} of RAM"
    return f"{'fits' if check.fits else 'does not fit'}: {check.sentence}"


def _costliest(result: Assessment, top: int) -> Table:
    whole = "of image" if result.image else "of all"
    table = _columns(
        _titled("costliest kernels, predicted"), ("component", "module", "kernel", "bound"), ("a call", whole), "why"
    )
    for costly in result.costliest(top):
        kernel = costly.time.kernel
        share = f"{costly.share:.1%}"
        table.add_row(
            costly.component,
            kernel.name or "–",
            kernel.category,
            costly.time.bound,
            short_time(costly.time.seconds),
            share,
            kernel.note,
        )
    return table


def _savings(result: Assessment) -> Table:
    title = "what choices save in an image, predicted: each switched off by itself, so they do not add up"
    table = _columns(_titled(title), ("choice",), ("with", "without", "saves"))
    for saving in result.savings:
        share = f"{saving.seconds / saving.without_seconds:.1%}"
        table.add_row(
            saving.choice,
            short_time(saving.with_seconds),
            short_time(saving.without_seconds),
            f"{'-' if saving.seconds < 0 else ''}{short_time(abs(saving.seconds))} ({share})",
        )
    return table


def _footnotes(result: Assessment) -> list[RenderableType]:
    from rich.text import Text

    from sdmobile.prediction.memory import ARENA_RANGE

    device = result.device
    lines = [*result.notes]
    low, high = device.model.low, device.model.high
    interval = (
        "No interval: no measured time of this unit was ever left out of its fit"
        if low is None or high is None
        else f"Interval: {low:.2f} to {high:.2f} times the prediction"
    )
    lines.append(f"Predicted, not measured; least reliability of a value used: {device.reliability}. {interval}.")
    if device.unit.runtime in ("ml-drift", "tflite-gpu"):
        lines.append(
            f"Arenas of Google's engines: three published ones are {ARENA_RANGE[0]:g} to {ARENA_RANGE[1]:g} times the "
            "planned; that is no interval with a coverage."
        )
    lines += [f"  {names}: {source}" for names, source in device.sources.items()]
    return [Text("\n".join(lines), style="dim")]


def measured_views(measurements: Measurements) -> list[RenderableType]:
    """Returns the table of measured values, and what was not run."""
    from rich.text import Text

    table = _columns(
        _titled("measured"), ("component", "measured on", "runtime"), ("median", "spread", "runs"), "remark"
    )
    for row in measurements.rows:
        spread = _interval(row.low, row.high)
        table.add_row(
            row.component, row.place, row.runtime, short_time(row.seconds), spread, str(row.runs or "–"), row.remark
        )
    notes: list[RenderableType] = [Text(f"not run: {line}", style="dim") for line in measurements.not_run]
    if measurements.rows:
        legend = "spread: 10th to 90th percentile of the timed runs; on a phone, benchmark_model gives mean and best"
        notes.append(Text(legend, style="dim"))
    return [*([table] if measurements.rows else []), *notes]
