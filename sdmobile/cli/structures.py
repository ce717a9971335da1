"""`sdmobile structures`: what is kept of architectures, so that an export of their fine-tunes takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdmobile.cli.arguments import CommandGroup, Control, Size, controls_of, path, resolution_of
from sdmobile.cli.output import Output, remark

if TYPE_CHECKING:
    from sdmobile.exporters.structures.listing import Entry

Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]

structures_app = typer.Typer(
    name="structures",
    help="Exported files without their weights, into which a checkpoint's weights are streamed.",
    cls=CommandGroup,
    no_args_is_help=True,
)


@structures_app.command("list")
def show_list(json_output: Json = False) -> None:
    """List the structures that come with the package and those made here, and whether they are current."""
    from rich.table import Table

    from sdmobile.exporters.structures.listing import entries

    found = list(entries())
    table = Table("component", "of", "device", "file", "weights", "state", box=None)
    for entry in found:
        table.add_row(*_row(entry))
    Output(json_output).data([entry.to_json() for entry in found], table)


def _row(entry: Entry) -> tuple[str, ...]:
    size = "" if entry.parameters is None else f"{entry.parameters / 1e6:.1f} M"
    place = "shipped" if entry.shipped else "kept"
    return entry.component, entry.checkpoint, entry.device, f"{entry.bytes / 1e3:.0f} kB, {place}", size, entry.state


@structures_app.command()
def where(json_output: Json = False) -> None:
    """Print the folders of structures: that of the package, and that of the ones made here."""
    from sdmobile.exporters.structures.find import places

    folders = [str(place) for place in places()]
    Output(json_output).data(folders, "\n".join(folders))


@structures_app.command()
def verify(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Structures to look at; all without one.", show_default=False)
    ] = None,
    json_output: Json = False,
) -> None:
    """Check that structures are whole and current: hash, format, versions. Exit code 3 where one is not."""
    from sdmobile.errors import EXIT_BELOW_THRESHOLD
    from sdmobile.exporters.structures.listing import entries

    found = list(entries(files))
    bad = [entry for entry in found if entry.state != "current"]
    lines = [f"{entry.path}: {entry.state}" for entry in bad] or [f"{len(found)} structures are whole and current"]
    Output(json_output).data([entry.to_json() for entry in found], "\n".join(lines))
    if bad:
        raise typer.Exit(EXIT_BELOW_THRESHOLD)


@structures_app.command()
def make(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="As of `export`; the bundled one without it.", show_default=False, parser=path),
    ] = None,
    target: Annotated[str, typer.Option(help="ios or android.")] = "ios",
    device: Annotated[str | None, typer.Option(help="Device profile; the target's default without it.")] = None,
    components: Annotated[str | None, typer.Option(help="Names, separated by commas; all without it.")] = None,
    resolution: Size = None,
    guidance: Annotated[str | None, typer.Option(help="As of `export`.")] = None,
    chunks: Annotated[int, typer.Option(min=1, help="As of `export`.")] = 1,
    control: Control = None,
    json_output: Json = False,
) -> None:
    """Make the structures of a checkpoint's architecture: the long way, twice, with random weights."""
    from sdmobile.cli.progress import StageView
    from sdmobile.exporters.request import ExportRequest, make_plan
    from sdmobile.exporters.structures.listing import make_all

    chosen = None if components is None else tuple(part.strip() for part in components.split(",") if part.strip())
    request = ExportRequest(
        checkpoint,
        target,
        Path("structures"),
        device,
        chosen,
        resolution_of(resolution),
        guidance,
        chunks=chunks,
        controls=controls_of(control),
    )
    plan = make_plan(request)
    with StageView() as view:
        made: list[tuple[str, Path, bool]] = make_all(plan, view.event)
    data: list[dict[str, Any]] = [{"component": n, "path": str(p), "made": fresh} for n, p, fresh in made]
    for name, _, fresh in made:
        if not fresh:
            remark(f"{name}: there is one already")
    Output(json_output).data(data, "\n".join(str(path) for _, path, _ in made))
