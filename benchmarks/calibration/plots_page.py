"""The tables and pictures of docs/device-profiles.md, made from the packaged graphs and profiles.

python -m benchmarks.calibration.plots_page docs
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.calibration.ablation import PUBLISHED_REDUCTION, AblationRow
from benchmarks.calibration.profile_values import write_page
from benchmarks.calibration.stable_diffusion import published_ablation
from benchmarks.calibration.stored import stored_graph
from sdmobile.device_profiles import load_profile
from sdmobile.prediction.assess import Assessment, budgets
from sdmobile.prediction.assess_device import choose_unit
from sdmobile.prediction.assess_savings import savings
from sdmobile.prediction.component_cost import component_cost
from sdmobile.prediction.pipeline_time import end_to_end
from sdmobile.prediction.plots import roofline_svg, waterfall_svg

PAGE = "device-profiles.md"
_STEPS = 20


def stable_diffusion(device: str = "galaxy-s23-ultra") -> Assessment:
    """Returns the assessment of Stable Diffusion 1.x at 512 pixels, 20 steps, guidance at batch 2, on an Android phone.

    Args:
        device: whose first unit runs `.tflite` files.
    """
    unit = choose_unit(device)
    calls = {"text_encoder": 2, "unet": _STEPS, "vae_decoder": 1}
    parts = tuple(
        component_cost(name, (stored_graph(f"sd15_512_{name}"),), unit, count) for name, count in calls.items()
    )
    text, unet, decoder = (part.prediction for part in parts)
    image = end_to_end(text, unet, decoder, _STEPS, "batch2")
    found = budgets(parts, unit), savings(parts, unit)
    return Assessment("Stable Diffusion 1.4", unit, parts, _STEPS, "batch2", image, 2, None, None, *found)


def ablation_table(rows: Mapping[str, tuple[AblationRow, ...]]) -> str:
    """Returns the paper's cumulative steps on both phones, beside the published reductions, as Markdown."""
    heads = [load_profile(phone).title for phone in rows]
    columns = [column for head in heads for column in (f"{head}, predicted ms", "reduction")]
    lines = [["step", *columns], ["---", *["---:"] * len(columns)]]
    for same in zip(*rows.values(), strict=True):
        cells = [
            cell
            for row in same
            for cell in (f"{1e3 * row.seconds:.0f}", f"-{row.reduction:.1%}" if row.reduction else "")
        ]
        lines.append([same[0].step, *cells])
    measured = [cell for phone in rows for cell in ("", f"-{PUBLISHED_REDUCTION[phone]:.1%}")]
    lines.append(["published, measured on the phone", *measured])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def savings_table(found: Assessment) -> str:
    """Returns what each choice of the runtime saves in an image, as Markdown."""
    lines = ["| choice | image without it, predicted s | saves |", "| --- | ---: | ---: |"]
    for saving in found.savings:
        lines.append(
            f"| {saving.choice} | {saving.without_seconds:.1f} | {saving.seconds / saving.without_seconds:.0%} |"
        )
    return "\n".join(lines)


def tables() -> dict[str, str]:
    """Returns the tables of the page by the names of their marks."""
    return {"ablation": ablation_table(published_ablation()), "savings": savings_table(stable_diffusion())}


def pictures() -> dict[str, str]:
    """Returns the pictures of the page by their file names."""
    phone = "galaxy-s23-ultra"
    steps = [(row.step, row.seconds) for row in published_ablation()[phone]]
    title = f"One call of Stable Diffusion 1.4's UNet at batch 2 on the {load_profile(phone).title}: predicted"
    return {
        "roofline-galaxy-s23-ultra.svg": roofline_svg(stable_diffusion(phone)),
        "waterfall-galaxy-s23-ultra.svg": waterfall_svg(steps, title, PUBLISHED_REDUCTION[phone]),
    }


def main(folder: Path) -> None:
    """Writes tables and pictures.

    Args:
        folder: of the docs.
    """
    write_page(tables(), folder / PAGE)
    for name, text in pictures().items():
        (folder / "pictures" / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
