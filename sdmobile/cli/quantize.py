"""`sdmobile quantize`: smaller number formats for the weights of a finished bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdmobile.basics.words import megabytes
from sdmobile.cli.arguments import CommandGroup, Embedding, Lora, Vae, changes_of, path
from sdmobile.cli.output import Output, warning
from sdmobile.cli.quantize_search import analyze, curve, search

if TYPE_CHECKING:
    from rich.table import Table

    from sdmobile.quantize.apply import AppliedRecipe

_TARGET = "Oldest iOS that must load the files, such as iOS17; without it, raised where a scheme needs it."
_REFERENCE = "The bundle's checkpoint, for w8a8 and --correct; without it, the one that sdmobile ships."
_CORRECT = "Fit a factor per layer to recorded inputs and keep it where it helps on others (iOS); takes minutes."

quantize_app = typer.Typer(
    name="quantize",
    help="Compress the weights of a bundle, with the loss measured.",
    cls=CommandGroup,
    no_args_is_help=True,
)


@quantize_app.command()
def recipes(json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")] = False) -> None:
    """List the named recipes and which runtime takes which number format, with the sources."""
    from sdmobile.quantize.recipes import GPU_INT8, NAMED, SHIPPED, named_recipe
    from sdmobile.quantize.support import TABLE

    named = [named_recipe(name) for name in (*NAMED, GPU_INT8, *SHIPPED)]
    data = {"recipes": [recipe.to_json() for recipe in named], "support": [row.to_json() for row in TABLE]}
    Output(json).data(data, *([] if json else [_names(), _support()]))


@quantize_app.command()
def apply(
    bundle: Annotated[Path, typer.Argument(help="Folder of an uncompressed bundle.", show_default=False)],
    recipe: Annotated[
        str, typer.Option(help="A name of `sdmobile quantize recipes`, or a JSON file.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new bundle.", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
    deployment_target: Annotated[str | None, typer.Option(help=_TARGET)] = None,
    reference: Annotated[Path | None, typer.Option(parser=path, help=_REFERENCE, show_default=False)] = None,
    lora: Lora = None,
    embedding: Embedding = None,
    vae: Vae = None,
    correct: Annotated[bool, typer.Option("--correct", help=_CORRECT)] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")] = False,
) -> None:
    """Write a smaller bundle; every compressed weight is read back from its file and compared."""
    from sdmobile.cli.progress import StageView
    from sdmobile.quantize.apply import apply_recipe
    from sdmobile.quantize.recipes import load_recipe

    loaded, changes = load_recipe(recipe), changes_of(lora, embedding, vae)
    with StageView() as view:
        result = apply_recipe(
            bundle, loaded, output, overwrite, deployment_target, view.event, reference, correct, changes
        )
    out = Output(json)
    for line in result.warnings:
        warning(f"warning: {line}")
    if json:
        out.data(_summary(result))
        return
    out.note(_sizes(result))
    typer.echo(str(result.path))


quantize_app.command()(analyze)
quantize_app.command()(search)
quantize_app.command()(curve)


def _summary(result: AppliedRecipe) -> dict[str, Any]:
    return {
        "bundle": str(result.path),
        "seconds": round(result.seconds, 2),
        "bytes": sum(entry["bytes"] for entry in result.manifest["files"].values()),
        "warnings": list(result.warnings),
        "compression": {name: record.get("compression") for name, record in result.manifest["components"].items()},
    }


def _sizes(result: AppliedRecipe) -> Table:
    from rich.table import Table

    table = Table("component", "before", "after", "bits per weight", "schemes", "seconds")
    for name, record in result.manifest["components"].items():
        compression = record.get("compression")
        if compression is None:
            table.add_row(name, megabytes(record["bytes"]), "unchanged", "", "", "")
            continue
        schemes = ", ".join(f"{scheme} {count}" for scheme, count in compression["schemes"].items())
        before, after = megabytes(compression["bytes_before"]), megabytes(compression["bytes_after"])
        table.add_row(
            name, before, after, f"{compression['bits_per_weight']:.2f}", schemes, f"{compression['seconds']:.1f}"
        )
    return table


def _names() -> Table:
    from rich.table import Table

    from sdmobile.quantize.recipes import ELSEWHERE, GPU_INT8, NAMED, SHIPPED, named_recipe
    from sdmobile.quantize.schemes import parse_scheme
    from sdmobile.quantize.support import minimum_ios

    table = Table("recipe", "bits", "oldest iOS", title="recipes", caption=f"mixed-…: {ELSEWHERE}")
    for name in NAMED:
        scheme = parse_scheme(name)
        table.add_row(name, str(scheme.bits), "" if name == "int8d" else str(minimum_ios(scheme)))
    table.add_row(GPU_INT8, "8 (linear layers)", "")
    for name in SHIPPED:
        recipe = named_recipe(name)
        bits = f"{recipe.evidence['bits_per_weight']:.2f}"
        table.add_row(name, bits, str(max(map(minimum_ios, recipe.schemes()))))
    return table


def _support() -> Table:
    from rich.table import Table

    from sdmobile.quantize.support import TABLE

    table = Table("scheme", "runtime", "", "since", "note", title="what runtimes take")
    for row in TABLE:
        table.add_row(row.scheme, row.runtime, row.verdict, row.since, row.note)
    return table
