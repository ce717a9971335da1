"""`sdmobile export`: write a bundle for one target, or one for each of several."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdmobile.basics.words import scaled_streams
from sdmobile.cli import targets
from sdmobile.cli.arguments import (
    CHECKPOINT,
    COMPONENTS,
    ClipSkip,
    Control,
    Distilled,
    Embedding,
    Lora,
    PredictionType,
    Size,
    Tokenizer,
    Vae,
    changes_of,
    controls_of,
    path,
    resolution_of,
)
from sdmobile.cli.output import is_quiet, remark, stderr_console, warning

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sdmobile.exporters.bundle import ExportResult
    from sdmobile.exporters.cache import ComponentCache
    from sdmobile.exporters.request import ExportPlan
    from sdmobile.exporters.workers import Workers
    from sdmobile.prediction.memory_budget import BudgetCheck

_ISLANDS = (
    "Sample a little with PyTorch and keep in float32 what overflows float16 then (ios); android: warn. Costs the "
    "time and memory of the sampling."
)
_CHUNKS = (
    "Cut the UNet into so many files, run one after the other (Apple's package: 2); auto: parts of a size that the "
    "device loads and compiles well, by its profile."
)
_QUANTIZE = "Store the weights as a recipe says: a name of `sdmobile quantize recipes`, or a JSON file."
_OUTPUT = "Bundle folder; DIR/TARGET for each of several targets. Without it, NAME-TARGET here."
_COMPONENTS = f"Export only these, separated by commas: {COMPONENTS}."
_GUIDANCE = (
    "batch2 (both guidance rows in one denoiser call; batch3 where there are three), separate, or none for what was "
    "distilled to few steps; without it, the default of the family."
)


def export(
    checkpoint: Annotated[
        Path | None, typer.Argument(parser=path, help=f"{CHECKPOINT} Without it, the bundled shapes-64.")
    ] = None,
    target: Annotated[str | None, typer.Option(help=targets.HELP, autocompletion=targets.complete)] = None,
    device: Annotated[str | None, typer.Option(help="Device profile; without it, the target's default.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help=_OUTPUT)] = None,
    components: Annotated[str | None, typer.Option(help=_COMPONENTS)] = None,
    resolution: Size = None,
    guidance: Annotated[str | None, typer.Option(help=_GUIDANCE)] = None,
    plain_ops: Annotated[
        bool, typer.Option("--plain-ops", help="Use no composite operators, for runtimes that do not know them.")
    ] = False,
    without: Annotated[
        list[str] | None, typer.Option(help="Leave a rewrite rule out, or float16_scales; may be repeated.")
    ] = None,
    allow_approximate: Annotated[
        list[str] | None,
        typer.Option(help="Run a rewrite rule that changes what the model computes; may be repeated."),
    ] = None,
    check_rewrites: Annotated[
        bool, typer.Option("--check-rewrites", help="Compare the graph before and after every rule on real inputs.")
    ] = False,
    chunks: Annotated[str, typer.Option(metavar="N|auto", help=_CHUNKS)] = "1",
    float32_islands: Annotated[bool, typer.Option("--float32-islands", help=_ISLANDS)] = False,
    quantize: Annotated[str | None, typer.Option(help=_QUANTIZE)] = None,
    tokenizer: Tokenizer = None,
    prediction_type: PredictionType = None,
    distilled: Distilled = None,
    lora: Lora = None,
    embedding: Embedding = None,
    vae: Vae = None,
    clip_skip: ClipSkip = None,
    control: Control = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done and needed; write nothing.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Where finished components are kept; without it, the user's cache folder.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither reuse nor keep finished components.")] = False,
    no_structure: Annotated[
        bool,
        typer.Option("--no-structure", help="Go the long way, also where a stored structure fits; keep none."),
    ] = False,
    ignore_limits: Annotated[
        bool, typer.Option("--ignore-limits", help="Go on although memory or disk space looks too small.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print plan or result as JSON.")] = False,
) -> None:
    """Export a checkpoint as a bundle for iPhone, Android or ONNX Runtime.

    Where a stored structure fits, weights are streamed into it; else a component is exported by a process of its own.
    Finished ones are reused by the next run. Several targets are all planned before the first is exported; where one
    fails, the bundles that are finished stay.
    """
    from sdmobile.exporters.bundle import Workers, cores
    from sdmobile.exporters.cache import ComponentCache, default_cache_dir
    from sdmobile.exporters.request import ExportRequest, make_plans
    from sdmobile.formats.bundle.writing import check_output
    from sdmobile.quantize.recipes import load_recipe
    from sdmobile.rewrites.options import RewriteOptions

    chosen = None if components is None else tuple(part.strip() for part in components.split(",") if part.strip())
    wanted = targets.chosen_targets(target)
    outs = targets.places(_name(checkpoint), wanted, output)
    rewrites = RewriteOptions(plain_ops, tuple(without or ()), tuple(allow_approximate or ()), check_rewrites)
    request = ExportRequest(
        checkpoint,
        wanted[0],
        outs[0],
        device,
        chosen,
        resolution_of(resolution),
        guidance,
        overwrite,
        rewrites,
        _chunks(chunks),
        float32_islands,
        None if quantize is None else load_recipe(quantize),
        tokenizer,
        prediction_type,
        changes_of(lora, embedding, vae, clip_skip, distilled),
        controls=controls_of(control),
        structures=not no_structure,
    )
    requests = [replace(request, target=name, out_dir=out) for name, out in zip(wanted, outs, strict=True)]
    fresh = output is not None and not output.exists()
    if not dry_run:
        for out in outs:
            check_output(out, overwrite)  # before the checkpoint is read
    eager = no_structure and not dry_run and cores() > 1  # else nothing of what they import may be needed
    with Workers(wanted[0]) if eager else nullcontext() as workers:  # imports while this one plans
        plans = make_plans(requests, dry_run)
        if dry_run and json_output:
            _print_json([plan.to_json() for plan in plans], len(plans) > 1)
        elif dry_run or not is_quiet():
            for plan in plans:
                _show_plan(plan)
        if dry_run:
            return
        cache = ComponentCache(None if no_cache else cache_dir or default_cache_dir())
        try:
            _export(plans, cache, ignore_limits, json_output, workers)
        finally:
            if output is not None and fresh:
                with suppress(OSError):  # bundles are in it, or it was never made
                    output.rmdir()


def _export(
    plans: list[ExportPlan], cache: ComponentCache, ignore_limits: bool, json_output: bool, workers: Workers | None
) -> None:
    """Writes one bundle after the other, and says of each that it is there, also where a later one fails.

    Args:
        workers: those of the first plan's target, if they are there already.
    """
    from sdmobile.cli.progress import StageView
    from sdmobile.exporters.bundle import export_bundle

    finished: list[dict[str, Any]] = []
    try:
        for plan in plans:
            if len(plans) > 1:
                remark(f"{plan.request.target}:")
            with StageView() as view:
                result = export_bundle(plan, cache, view.event, ignore_limits, workers if plan is plans[0] else None)
            finished.append(_show_result(result, json_output))
    finally:
        if json_output and (finished or len(plans) > 1):
            _print_json(finished, len(plans) > 1)


def _name(checkpoint: Path | None) -> str:
    from sdmobile.checkpoints import HubName, bundled_checkpoint
    from sdmobile.checkpoints.hub import origin_of

    path = checkpoint or bundled_checkpoint()
    known = origin_of(path) or (None if path.exists() else HubName.parse(path))
    return known.name if known else (path.name if path.is_dir() else path.stem)


def _show_plan(plan: ExportPlan) -> None:
    memory, disk = plan.memory_bytes / 2**30, plan.disk_bytes / 1e9
    console = stderr_console()
    few = "" if plan.checkpoint.given.distilled is None else f", {plan.checkpoint.usual_steps} steps"
    console.print(f"{plan.checkpoint.name} -> {plan.request.target} ({plan.device}), {plan.guidance} guidance{few}")
    for part in plan.components:
        streamed = plan.is_streamed(part.name)
        way = "streamed" if streamed else f"about {part.memory_bytes / 2**30:.1f} GiB of memory"
        estimate = f"{way}, {part.kept_bytes / 1e6:.1f} MB file"
        console.print(f"  {part.name:13} {part.parameters / 1e6:8.2f} M parameters   {estimate}")
    for line in (*_long_ways(plan), *plan.report.notes):
        console.print(f"  note: {line}")
    for line in plan.report.warnings:
        console.print(f"  warning: {line}", style="yellow")
    console.print(f"  estimated: {memory:.1f} GiB of memory at most, {disk:.2f} GB of disk")


def _long_ways(plan: ExportPlan) -> list[str]:
    """Returns why components are not streamed, one line for each reason."""
    reasons: dict[str, list[str]] = {}
    for name, fit in plan.structures.items():
        if fit.reason is not None and plan.request.target != "onnx":
            kept = "; one is made, for which the converter runs twice (--no-structure: not)" if fit.wanted else ""
            reasons.setdefault(f"no structure: {fit.reason}{kept}", []).append(name)
    return [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]


def _show_result(result: ExportResult, json_output: bool) -> dict[str, Any]:
    """Tells people of a bundle, and returns what `--json` prints of it."""
    memory = _memory(result)
    total = sum(entry["bytes"] for entry in result.manifest["files"].values())
    for line in told_once(result.warnings):
        warning(f"warning: {line}")
    for name, record in result.manifest["components"].items():
        if (line := scaled_streams(record)) is not None:
            remark(f"note: {name}: {line}")
    if not json_output:
        remark(f"wrote {result.path} ({total / 1e6:.1f} MB) in {result.seconds:.1f} s")
        for check in memory:
            show_memory(check)
        typer.echo(str(result.path))
    return {
        "bundle": str(result.path),
        "seconds": round(result.seconds, 2),
        "bytes": total,
        "reused": list(result.reused),
        "warnings": list(result.warnings),
        "memory": [check.to_json() for check in memory],
        "manifest": result.manifest,
    }


def told_once(lines: Iterable[str]) -> tuple[str, ...]:
    """Returns lines without repetition, with how often each was there: a rule may object to every layer alike."""
    return tuple(f"{line} ({count} times)" if count > 1 else line for line, count in Counter(lines).items())


def _memory(result: ExportResult) -> tuple[BudgetCheck, ...]:
    """Returns what the bundle needs in the phone's memory; empty where the phone's units are not known."""
    from sdmobile.formats.bundle.reading import open_bundle
    from sdmobile.prediction.assess import bundle_memory

    return bundle_memory(open_bundle(result.path, verify=False))


def show_memory(check: BudgetCheck) -> None:
    """Prints to stderr what a bundle needs in the phone's memory: a warning with advice where it does not fit."""
    from sdmobile.basics.words import megabytes

    line = f"memory, predicted, {check.loading}: {check.sentence}"
    if check.fits is not False:
        remark(line)
        return
    advice = "; ".join(f"{way.text}: {megabytes(way.needed)}" for way in check.advice)
    warning(f"warning: {line}. {advice}")


def _print_json(values: list[dict[str, Any]], several: bool) -> None:
    """Prints the object of one target, or the list of several targets'."""
    import json

    typer.echo(json.dumps(values if several else values[0], indent=2))


def _chunks(text: str) -> int:
    """Returns the number of files of the denoiser; the number that stands for the device's choice where it is auto."""
    from sdmobile.exporters.part_sizes import AUTO

    if text == "auto":
        return AUTO
    if not text.isdecimal() or not int(text):
        raise typer.BadParameter(f"{text!r} is no number of files from 1 on, and not auto", param_hint="--chunks")
    return int(text)
