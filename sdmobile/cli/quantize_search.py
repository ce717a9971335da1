"""`sdmobile quantize analyze|search|curve`: mixed precision measured on one checkpoint."""

from __future__ import annotations

import json as json_format
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdmobile.cli.output import Output, megabytes
from sdmobile.errors import CheckpointError

if TYPE_CHECKING:
    from rich.table import Table

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.quantize.sensitivity import Sensitivity
    from sdmobile.quantize.sensitivity_study import EncodedWeights, Study
    from sdmobile.quantize.tradeoff import Point

Source = Annotated[
    Path | None, typer.Option("--checkpoint", help="Diffusers folder or single file; without it, shapes-64.")
]
Sensitivities = Annotated[Path, typer.Argument(help="What `quantize analyze` wrote.", show_default=False)]
Steps = Annotated[int, typer.Option(min=1, max=1000, help="Scheduler steps of the recorded pictures.")]
Samples = Annotated[int, typer.Option(min=1, help="Most recorded calls of the component.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither reuse nor keep what was computed.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]


def analyze(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Diffusers folder or single file; without it, the bundled shapes-64.")
    ] = None,
    component: Annotated[str, typer.Option(help="text_encoder, unet, vae_decoder or vae_encoder.")] = "unet",
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
    from sdmobile.checkpoints import open_checkpoint
    from sdmobile.cli.validate import read_prompts
    from sdmobile.quantize.sensitivity import DEFAULT_SCHEMES
    from sdmobile.quantize.sensitivity_analysis import AnalysisPlan, analyse
    from sdmobile.quantize.sensitivity_study import ANALYSIS_PROMPTS, requests_for
    from sdmobile.quantize.sensitivity_work import is_main

    opened = open_checkpoint(checkpoint)
    texts = ANALYSIS_PROMPTS if prompts is None else read_prompts(prompts)
    plan = AnalysisPlan(
        component=component,
        requests=requests_for(opened, texts, steps, seed),
        schemes=DEFAULT_SCHEMES if schemes is None else tuple(name.strip() for name in schemes.split(",")),
        max_samples=max_samples,
        probes=probes,
        direct=direct,
        seed=seed,
        through=through or ("trajectory" if component == "unet" else "call"),
    )
    with _progress() as tell, _kept(no_cache) as (folder, recordings):
        found = analyse(opened, plan, folder, recordings, tell)
    if not is_main():
        return
    if output is not None:
        _write(output, json_format.dumps(found.to_json()) + "\n")
    Output(json).data(found.to_json(), *([] if json else [_sensitivities(found)]))


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

    from sdmobile.quantize.recipes import save_recipe
    from sdmobile.quantize.search import Goal
    from sdmobile.quantize.search import search as find
    from sdmobile.quantize.sensitivity import load_sensitivity
    from sdmobile.quantize.sensitivity_study import SELECTION_PROMPTS, SELECTION_SEED, requests_for

    if (bits is None) == (psnr is None):
        raise typer.BadParameter("give either --bits or --psnr")
    table = load_sensitivity(sensitivities)
    with _progress() as tell, _kept(no_cache) as (folder, recordings):
        study, encoded = None, None
        if measure:
            opened = _opened(table, checkpoint)
            requests = requests_for(opened, SELECTION_PROMPTS, steps, SELECTION_SEED)
            tell("recording", 0, 1)
            through = str(table.settings.get("through", "call"))
            study, encoded = _study(opened, table.component, requests, max_samples, folder, recordings, through)
        tell("searching", 0, 1)
        recipe = find(table, Goal(bits, psnr), study, encoded)
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
    from sdmobile.quantize.recipes import named_recipe, save_recipe
    from sdmobile.quantize.search import Goal
    from sdmobile.quantize.search import search as find
    from sdmobile.quantize.sensitivity import load_sensitivity
    from sdmobile.quantize.sensitivity_study import (
        JUDGING_PROMPTS,
        JUDGING_SEED,
        SELECTION_PROMPTS,
        SELECTION_SEED,
        judging_requests,
        requests_for,
    )
    from sdmobile.quantize.tradeoff import curve_svg, exact_pictures, markdown, measure_point

    table = load_sensitivity(sensitivities)
    opened = _opened(table, checkpoint)
    goals = [Goal(bits=float(text)) for text in bits.split(",") if text.strip()]
    with _progress() as tell, _kept(no_cache) as (folder, recordings):
        choosing = requests_for(opened, SELECTION_PROMPTS, steps, SELECTION_SEED)
        through = str(table.settings.get("through", "call"))
        study, encoded = _study(opened, table.component, choosing, max_samples, folder, recordings, through)
        mixed = [find(table, goal, study, encoded) for goal in goals]
        recipes = [*(named_recipe(text.strip()) for text in uniform.split(",") if text.strip()), *mixed]
        judging = requests_for(opened, JUDGING_PROMPTS, steps, JUDGING_SEED)
        study, encoded = _study(opened, table.component, judging, max_samples, folder, recordings)
        exact = study.outputs()
        drawn = exact_pictures(opened, study, judging_requests(opened, pictures, steps), tell)
        points: list[Point] = []
        for recipe in recipes:
            tell(recipe.name, len(points), len(recipes))
            points.append(measure_point(study, encoded, exact, recipe, drawn, tell))
    data = {"component": table.component, "source_hash": table.source_hash, "points": [p.to_json() for p in points]}
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        _write(output / "curve.json", json_format.dumps(data, indent=1) + "\n")
        _write(output / "curve.md", markdown(points))
        _write(output / "curve.svg", curve_svg(points, f"{opened.name}, {table.component}"))
        for recipe in mixed:
            save_recipe(recipe, output / f"{recipe.name}.json")
    Output(json).data(data, *([] if json else [markdown(points)]))


@contextmanager
def _progress() -> Iterator[Any]:
    from sdmobile.cli.progress import step_progress

    with step_progress() as tell:
        yield tell


@contextmanager
def _kept(no_cache: bool) -> Iterator[tuple[Path, Path | None]]:
    """Yields the folder for finished pieces of work and the cache of recordings."""
    from sdmobile.reference.recording_cache import default_recordings_dir

    if no_cache:
        with tempfile.TemporaryDirectory(prefix="sdmobile-quantize-") as scratch:
            yield Path(scratch), None
    else:
        recordings = default_recordings_dir()
        yield recordings.parent / "quantize", recordings


def _opened(table: Sensitivity, checkpoint: Path | None) -> Checkpoint:
    """Opens the checkpoint that was analysed, or a fine-tune of its architecture."""
    from sdmobile.checkpoints import open_checkpoint

    opened = open_checkpoint(checkpoint)
    if checkpoint is None and opened.content_hash != table.source_hash:
        raise CheckpointError(
            "measuring needs the checkpoint that was analysed", "it is not shapes-64", "Give it: --checkpoint."
        )
    return opened


def _study(
    checkpoint: Checkpoint,
    component: str,
    requests: Any,
    max_samples: int,
    folder: Path,
    recordings: Path | None,
    through: str = "call",
) -> tuple[Study, EncodedWeights]:
    from sdmobile.quantize.sensitivity_analysis import opened_study
    from sdmobile.quantize.sensitivity_study import EncodedWeights, weights_key

    study = opened_study(checkpoint, component, requests, max_samples, recordings, through)
    return study, EncodedWeights(study, folder / "weights" / weights_key(checkpoint.content_hash, component))


def _write(path: Path, text: str) -> None:
    from sdmobile.basics.files import write_whole

    write_whole(path, text.encode())


def _sensitivities(found: Sensitivity) -> Table:
    """Returns the PSNR of the output per layer and scheme, the most sensitive layers first."""
    import numpy as np
    from rich.table import Table

    from sdmobile.quantize.sensitivity import rank_correlation

    rho = rank_correlation(found)
    agreement = "" if rho is None else f" Estimate and direct measurement: Spearman {rho:.3f}."
    table = Table(
        title=f"{found.component}: PSNR of the output in dB when one layer alone is compressed",
        title_justify="left",
        caption=f"{len(found.layers)} layers, {found.total_elements} weights.{agreement}",
        caption_justify="left",
    )
    table.add_column("module", overflow="fold")
    for scheme in ("weights", *found.schemes):
        table.add_column(scheme, justify="right")
    errors = found.best
    for i in np.argsort(-np.nansum(errors, axis=1), kind="stable").tolist():
        cells = ("–" if np.isnan(error) else f"{found.psnr_db(float(error)):.1f}" for error in errors[i])
        table.add_row(found.layers[i], str(found.elements[i]), *cells)
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
