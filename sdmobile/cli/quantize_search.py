"""`sdmobile quantize analyze|search|curve`: mixed precision measured on one checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdmobile.basics.words import megabytes
from sdmobile.cli.arguments import CHECKPOINT, COMPONENTS, path
from sdmobile.cli.output import Output

if TYPE_CHECKING:
    from rich.table import Table

    from sdmobile.quantize.sensitivity import Sensitivity

Source = Annotated[Path | None, typer.Option("--checkpoint", parser=path, help=f"{CHECKPOINT} Without it, shapes-64.")]
Sensitivities = Annotated[Path, typer.Argument(help="What `quantize analyze` wrote.", show_default=False)]
Steps = Annotated[int, typer.Option(min=1, max=1000, help="Scheduler steps of the recorded pictures.")]
Samples = Annotated[int, typer.Option(min=1, help="Most recorded calls of the component.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither reuse nor keep what was computed.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]


def analyze(
    checkpoint: Annotated[
        Path | None, typer.Argument(parser=path, help=f"{CHECKPOINT} Without it, the bundled shapes-64.")
    ] = None,
    component: Annotated[str | None, typer.Option(help=f"{COMPONENTS}; without it, the denoiser.")] = None,
    schemes: Annotated[
        str | None, typer.Option(help="What a layer may become, separated by commas, such as palette4,int8c,fp16.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="Text file with one prompt per line.")] = None,
    steps: Steps = 20,
    through: Annotated[
        str | None,
        typer.Option(help="Whose error counts: call, or trajectory (a UNet's final latents, the default for it)."),
    ] = None,
    max_samples: Samples = 15,
    probes: Annotated[int, typer.Option(min=0, help="Random probes per picture or recorded row.")] = 6,
    direct: Annotated[int, typer.Option(min=0, help="Layers to measure one by one, the most sensitive first.")] = 0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of pictures and probes.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the sensitivities here.")] = None,
    no_cache: NoCache = False,
    json: Json = False,
) -> None:
    """Measure what compressing each layer does to the component's output, on recorded trajectories.

    Runs under `accelerate launch` over several processes; a stopped run goes on where it was.
    """
    from sdmobile.basics.files import write_json
    from sdmobile.checkpoints import open_checkpoint
    from sdmobile.cli.progress import step_progress
    from sdmobile.cli.validate import read_prompts
    from sdmobile.quantize.curve import work_folders
    from sdmobile.quantize.sensitivity import DEFAULT_SCHEMES
    from sdmobile.quantize.sensitivity_analysis import AnalysisPlan, analyse, usual_error
    from sdmobile.quantize.sensitivity_study import ANALYSIS_PROMPTS, requests_for
    from sdmobile.quantize.sensitivity_work import is_main, silent

    opened = open_checkpoint(checkpoint)
    texts = ANALYSIS_PROMPTS if prompts is None else read_prompts(prompts)
    component = component or opened.family.denoiser.name
    plan = AnalysisPlan(
        component=component,
        requests=requests_for(opened, texts, steps, seed),
        schemes=DEFAULT_SCHEMES if schemes is None else tuple(name.strip() for name in schemes.split(",")),
        max_samples=max_samples,
        probes=probes,
        direct=direct,
        seed=seed,
        through=through or usual_error(opened.family, component),
    )
    with step_progress() as tell, work_folders(not no_cache) as folders:
        sensitivity = analyse(opened, plan, folders.work, folders.recordings, tell if is_main() else silent)
    if not is_main():
        return
    if output is not None:
        write_json(output, sensitivity.to_json(), indent=None)
    Output(json).data(sensitivity.to_json(), *([] if json else [_sensitivities(sensitivity)]))


def search(
    sensitivities: Sensitivities,
    bits: Annotated[
        float | None, typer.Option(help="Average bits per weight at most, tables and scales included.")
    ] = None,
    psnr: Annotated[float | None, typer.Option(help="PSNR of the component's output at least, in dB.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the recipe; without it, such as mixed-4.0.")] = None,
    checkpoint: Source = None,
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="Measure the candidates.")] = True,
    steps: Steps = 20,
    max_samples: Samples = 15,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the recipe here.")] = None,
    no_cache: NoCache = False,
    json: Json = False,
) -> None:
    """Find the recipe with the least error for a size, or the least size for a quality, and measure it."""
    from dataclasses import replace

    from sdmobile.cli.progress import step_progress
    from sdmobile.quantize.curve import analysed_checkpoint, measured_recipe, work_folders
    from sdmobile.quantize.recipes import save_recipe
    from sdmobile.quantize.search import Goal
    from sdmobile.quantize.sensitivity import load_sensitivity

    if (bits is None) == (psnr is None):
        raise typer.BadParameter("give either --bits or --psnr")
    sensitivity = load_sensitivity(sensitivities)
    with step_progress() as tell, work_folders(not no_cache) as folders:
        opened = analysed_checkpoint(sensitivity, checkpoint) if measure else None
        recipe = measured_recipe(sensitivity, Goal(bits, psnr), opened, steps, max_samples, folders, tell)
    recipe = recipe if name is None else replace(recipe, name=name)
    if output is not None:
        save_recipe(recipe, output)
    Output(json).data(recipe.to_json(), *([] if json else [_recipe(recipe.name, recipe.evidence)]))


def curve(
    sensitivities: Sensitivities,
    bits: Annotated[str, typer.Option(help="Sizes of mixed recipes, in average bits, separated by commas.")] = (
        "2,2.5,3,3.5,4,5,6,8"
    ),
    uniform: Annotated[str, typer.Option(help="Uniform recipes, separated by commas.")] = (
        "palette8,palette6,palette4,palette3,palette2,int8c,fp16"
    ),
    checkpoint: Source = None,
    pictures: Annotated[int, typer.Option(min=0, help="Pictures per recipe; 0 for none.")] = 8,
    steps: Steps = 20,
    max_samples: Samples = 15,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for curve.json, curve.md, curve.svg, recipes.")
    ] = None,
    no_cache: NoCache = False,
    json: Json = False,
) -> None:
    """Draw the size-quality curve: uniform and mixed recipes on prompts that no search has seen."""
    from sdmobile.cli.progress import step_progress
    from sdmobile.quantize.curve import CurvePlan, analysed_checkpoint, draw_curve, work_folders
    from sdmobile.quantize.recipes import named_recipe
    from sdmobile.quantize.sensitivity import load_sensitivity

    recipes = tuple(named_recipe(name) for name in _listed(uniform))
    plan = CurvePlan(tuple(map(_size, _listed(bits))), recipes, pictures, steps, max_samples)
    sensitivity = load_sensitivity(sensitivities)
    opened = analysed_checkpoint(sensitivity, checkpoint)
    with step_progress() as tell, work_folders(not no_cache) as folders:
        drawn = draw_curve(sensitivity, opened, plan, folders, tell)
    if output is not None:
        drawn.save(output)
    Output(json).data(drawn.to_json(), *([] if json else [drawn.table]))


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _size(text: str) -> float:
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not size > 0:
        raise typer.BadParameter(f"--bits holds positive numbers, separated by commas; not {text!r}")
    return size


def _sensitivities(sensitivity: Sensitivity) -> Table:
    """Returns the PSNR of the output per layer and scheme, the most sensitive layers first."""
    import numpy as np
    from rich.table import Table

    from sdmobile.quantize.sensitivity import rank_correlation

    rho = rank_correlation(sensitivity)
    agreement = "" if rho is None else f" Estimate and direct measurement: Spearman {rho:.3f}."
    table = Table(
        title=f"{sensitivity.component}: PSNR of the output in dB when one layer alone is compressed",
        title_justify="left",
        caption=f"{len(sensitivity.layers)} layers, {sensitivity.total_elements} weights.{agreement}",
        caption_justify="left",
    )
    table.add_column("module", overflow="fold")
    for scheme in ("weights", *sensitivity.schemes):
        table.add_column(scheme, justify="right")
    errors = sensitivity.best
    for i in np.argsort(-np.nansum(errors, axis=1), kind="stable").tolist():
        cells = ("–" if np.isnan(error) else f"{sensitivity.psnr_db(float(error)):.1f}" for error in errors[i])
        table.add_row(sensitivity.layers[i], str(sensitivity.elements[i]), *cells)
    return table


def _recipe(name: str, evidence: Any) -> Table:
    from rich.table import Table

    table = Table(title=name, title_justify="left", show_header=False)
    counts = ", ".join(f"{scheme} {count}" for scheme, count in evidence["layers_per_scheme"].items())
    table.add_row("size", f"{megabytes(evidence['stored_bytes'])}, {evidence['bits_per_weight']:.2f} bits per weight")
    table.add_row("layers", counts)
    table.add_row("predicted", f"{evidence['predicted_db']:.1f} dB")
    for candidate in evidence["candidates"]:
        measured = candidate["measured_db"]
        level = "not measured" if measured is None else f"{measured:.1f} dB measured"
        table.add_row(f"optimum of {candidate['model']}", f"{candidate['stored_bytes']} bytes, {level}")
    return table
