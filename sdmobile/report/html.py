"""The report: one HTML file with everything in it, that needs no network and no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from sdmobile.basics import words
from sdmobile.report.figures import Curve, png_data_uri, trajectory_svg

if TYPE_CHECKING:
    import numpy as np
    from jinja2 import Template
    from numpy.typing import NDArray

TEMPLATE = "report.html.j2"
_GUIDANCE = {
    "batch2": "one denoiser call of two rows",
    "batch3": "one denoiser call of three rows",
    "separate": "one denoiser call per row",
    "none": "none, one denoiser call of one row",
    "embedded": "its scale is an input of the denoiser",
}


def render_report(
    manifest: Mapping[str, Any],
    validation: Mapping[str, Any] | None,
    images: Sequence[Mapping[str, NDArray[np.float32]]] = (),
) -> str:
    """Renders the report of a bundle.

    Args:
        manifest: the bundle's manifest.json.
        validation: `ValidationReport.to_json()`, or None before validation.
        images: per prompt, decoder outputs [1, 3, H, W] by "torch" or runtime.

    Returns:
        A whole HTML document.
    """
    checks = validation or {}
    runtimes = _runtimes(checks)
    grown = [check for check in checks.get("trajectories", []) if check["latent_rmse"]]
    return _template().render(
        manifest=manifest,
        source=manifest.get("source", {}),
        guidance=_GUIDANCE.get(manifest["guidance"], manifest["guidance"]),
        validation=validation,
        components=_components(manifest),
        checks=_rows(checks),
        trajectories=_together(checks.get("trajectories", []), "prompt", "seed"),
        plot=trajectory_svg(_curves(checks, runtimes)),
        legend=runtimes,
        pictures=_pictures(checks, images),
        grown=grown,
        steps=min((len(check["latent_rmse"]) for check in grown), default=0),
        words=words,
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sdmobile.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE)


def _components(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, record in manifest.get("components", {}).items():
        stages = record.get("stages", [])
        rows.append(
            {
                "name": name,
                "file": ", ".join(part["file_name"] for part in record.get("chain", [])) or record.get("file", ""),
                "parameters": record.get("parameters"),
                "bytes": record.get("bytes"),
                "stages": stages,
                "seconds": sum(stage.get("seconds", 0.0) for stage in stages),
                "peak": max((stage.get("peak_rss_bytes", 0) for stage in stages), default=None),
                "rewrites": words.grouped_rewrites(record.get("rewrites", [])),
                "warnings": record.get("warnings", []),
                "scaled": words.scaled_streams(record),
            }
        )
    return rows


def _rows(validation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the component checks, each component's runtimes together."""
    checks = _together(validation.get("components", []), "component")
    return [{**check, "seconds": sum(sample["seconds"] for sample in check["samples"]) or None} for check in checks]


def _together(checks: Sequence[Mapping[str, Any]], *keys: str) -> list[Mapping[str, Any]]:
    """Returns the checks, those of one value of all keys next to each other."""
    values = [tuple(check[key] for key in keys) for check in checks]
    order = list(dict.fromkeys(values))
    return [check for value in order for check, own in zip(checks, values, strict=True) if own == value]


def _runtimes(validation: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(check["runtime"] for check in validation.get("trajectories", [])))


def _curves(validation: Mapping[str, Any], runtimes: list[str]) -> list[Curve]:
    prompts = list(dict.fromkeys((c["prompt"], c["seed"]) for c in validation.get("trajectories", [])))
    curves = []
    for check in validation.get("trajectories", []):
        index = prompts.index((check["prompt"], check["seed"]))
        label = f"{check['runtime']}, prompt {index + 1}"
        curves.append(Curve(label, runtimes.index(check["runtime"]), index, check["latent_psnr_db"]))
    return curves


def _pictures(
    validation: Mapping[str, Any], images: Sequence[Mapping[str, NDArray[np.float32]]]
) -> list[dict[str, Any]]:
    """Returns, per prompt, its pictures with what they are and how close they came."""
    settings = validation.get("settings", {})
    prompts, seeds = settings.get("prompts", []), settings.get("seeds", [])
    level = {(c["seed"], c["runtime"]): c for c in validation.get("trajectories", [])}
    rows = []
    for index, row in enumerate(images):
        seed = seeds[index] if index < len(seeds) else None
        shown = []
        for name, image in row.items():
            check = level.get((seed, name))
            note = "float32 reference" if check is None else words.decibels(check["image_psnr_db"])
            shown.append({"name": name, "uri": png_data_uri(image), "note": note, "width": image.shape[-1]})
        rows.append({"prompt": prompts[index] if index < len(prompts) else "", "seed": seed, "images": shown})
    return rows
