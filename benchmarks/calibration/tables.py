"""The tables of docs/latency-model.md, made from the fit so that they cannot say anything else than the code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.calibration import stable_diffusion
from benchmarks.calibration.ablation import PUBLISHED_REDUCTION, AblationRow
from benchmarks.calibration.adreno import PARAMETERS, PUBLICATIONS
from benchmarks.calibration.adreno_fit import AdrenoFit, RowResult
from benchmarks.calibration.stored import stored_graph
from sdmobile.prediction.assess_device import choose_unit
from sdmobile.prediction.fit import Quality
from sdmobile.prediction.precision_cost import PrecisionCost, image_costs, precision_costs

_UNITS = {
    "fetch_rate": (1e9, "G/s"),
    "bandwidth": (1e9, "GB/s"),
    "dispatch": (1e-6, "µs"),
    "fixed": (1e-3, "ms"),
    **dict.fromkeys(PUBLICATIONS.values(), (1.0, "")),
}


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table; all columns but the first are right-aligned."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))


def parameters(result: AdrenoFit) -> str:
    """Returns the fitted values beside what was assumed before."""

    def shown(name: str, value: float) -> str:
        scale, unit = _UNITS.get(name, (1e-2, "%"))
        return f"{value / scale:.3g} {unit}".rstrip()

    lines = [
        [p.name, shown(p.name, result.values[p.name]), shown(p.name, p.guess), f"{p.spread:g}", p.reason]
        for p in PARAMETERS
    ]
    return table(["parameter", "fitted", "guess", "spread of the guess", "ground of the guess"], lines)


def rows(results: Sequence[RowResult]) -> str:
    """Returns published and predicted times."""
    lines = [
        [
            result.row.model,
            f"{result.row.seconds * 1e3:.1f}",
            f"{result.predicted * 1e3:.1f}",
            f"{result.error(result.without_family):+.0%}",
            f"{result.error(result.without_publication):+.0%}",
            result.row.note,
        ]
        for result in results
    ]
    header = ["model", "published ms", "fit of all rows", "family left out", "publication left out", "note"]
    return table(header, lines)


def checks(results: Sequence[RowResult]) -> str:
    """Returns published and predicted times of rows that no fit has seen."""
    lines = [
        [
            result.row.model,
            result.row.publication,
            f"{result.row.seconds * 1e3:.1f}",
            f"{result.predicted * 1e3:.1f}",
            f"{result.error(result.predicted):+.0%}",
            result.row.note,
        ]
        for result in results
    ]
    return table(["model", "publication", "published ms", "predicted", "error", "note"], lines)


def statistics(result: AdrenoFit) -> str:
    """Returns the quality of the predictions for left-out rows."""

    def line(name: str, found: Quality, count: int) -> list[str]:
        numbers = [f"{found.median:.1%}", f"{found.p90:.1%}", f"{found.worst:.1%}", f"{found.rank_correlation:.3f}"]
        return [name, str(count), *numbers]

    count = len(result.fitted)
    lines = [
        line("a row at a time", result.by_row, count),
        line("all models of a design", result.by_family, count),
        line("all rows of a publication", result.by_publication, count),
    ]
    return table(["left out together", "rows", "median error", "90th percentile", "worst", "rank correlation"], lines)


def totals(result: AdrenoFit) -> str:
    """Returns the whole image of Stable Diffusion 1.4 on the S23 Ultra."""
    time = stable_diffusion.image_time(stable_diffusion.engine_unit(result.values))
    lines = [
        ["text encoder, 2 calls", f"{time.text:.2f}"],
        ["UNet, 20 calls at batch 2", f"{time.unet:.2f}"],
        ["decoder", f"{time.decoder:.2f}"],
        ["image", f"{time.seconds:.2f}"],
        ["published", f"{stable_diffusion.PUBLISHED_TOTAL:.1f}"],
    ]
    return table(["part", "seconds"], lines)


def precisions() -> str:
    """Returns what each precision of the GPU costs Stable Diffusion 1.5, by the profile's values."""
    device = choose_unit("galaxy-s23-ultra")
    calls = dict(zip(stable_diffusion.COMPONENTS, (2, stable_diffusion.STEPS, 1), strict=True))
    costs = {name: precision_costs([stored_graph(f"sd15_512_{name}")], device) for name in calls}
    parts = {"text encoder": "text_encoder", "UNet, a call": "unet", "decoder": "vae_decoder"}
    lines = [[part, *(_bounds(one, 1e-3, "ms") for one in costs[name])] for part, name in parts.items()]
    image = image_costs([(calls[name], costs[name]) for name in calls])
    lines.append(["image", *(_bounds(one, 1.0, "s") for one in image)])
    return table(["", *(one.precision for one in image)], lines)


def _bounds(cost: PrecisionCost, scale: float, unit: str) -> str:
    amounts = (seconds / scale for seconds in (cost.least, cost.most))
    least, most = (f"{amount:.0f}" if amount >= 100 else f"{amount:.1f}" for amount in amounts)
    return f"{least} {unit}" if least == most else f"{least} – {most} {unit}"


def ablation(result: AdrenoFit) -> str:
    """Returns the cumulative steps of the paper on both phones, and the published reductions."""
    columns = stable_diffusion.published_ablation(result.values)
    steps: list[tuple[AblationRow, ...]] = list(zip(*columns.values(), strict=True))
    lines = [[step[0].step, *(cell for row in step for cell in _cells(row))] for step in steps]
    lines.append(["published", *(cell for name in columns for cell in ("", f"-{PUBLISHED_REDUCTION[name]:.1%}"))])
    header = ["step", *(f"{name} {what}" for name in columns for what in ("ms", "reduction"))]
    return table(header, lines)


def _cells(row: AblationRow) -> tuple[str, str]:
    return f"{row.seconds * 1e3:.0f}", f"-{row.reduction:.1%}" if row.reduction else ""


def sections(result: AdrenoFit) -> dict[str, str]:
    """Returns all tables by the name of their place in the page."""
    return {
        "parameters": parameters(result),
        "rows": rows(result.fitted),
        "statistics": statistics(result),
        "checks": checks(result.checks),
        "totals": totals(result),
        "precisions": precisions(),
        "ablation": ablation(result),
    }
