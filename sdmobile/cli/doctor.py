"""`sdmobile doctor`: versions, what this machine can do, and what is missing with the fix."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdmobile.basics.words import megabytes
from sdmobile.cli.output import Output
from sdmobile.errors import EXIT_MISSING

if TYPE_CHECKING:
    from rich.table import Table

    from sdmobile.validate.environment import Ability, Library, Machine


def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")] = False) -> None:
    """Say what is installed, what this machine can do, and how to get what is missing.

    The exit code is 8 where a library that every command needs is missing.
    """
    from sdmobile.validate.environment import CORE, abilities, libraries, machine

    here, installed = machine(Path.cwd()), libraries()
    able = abilities(installed)
    views = [] if json else [_machine(here), _libraries(installed), _abilities(able)]
    Output(json).data(_as_json(here, installed, able), *views)
    if any(library.extra == CORE and library.installed is None for library in installed):
        raise typer.Exit(EXIT_MISSING)


def _as_json(here: Machine, installed: list[Library], able: list[Ability]) -> dict[str, Any]:
    from sdmobile import __version__

    return {
        "sdmobile": __version__,
        "machine": here.to_json(),
        "libraries": [asdict(library) | {"fix": library.fix} for library in installed],
        "abilities": [asdict(ability) for ability in able],
    }


def _machine(here: Machine) -> Table:
    from rich.table import Table

    from sdmobile import __version__

    table = Table(show_header=False, box=None)
    table.add_row("sdmobile", __version__)
    table.add_row("python", here.python)
    table.add_row("system", f"{here.system}, {here.cores} cores")
    table.add_row("memory", f"{megabytes(here.memory_available_bytes)} free of {megabytes(here.memory_bytes)}")
    table.add_row("disk", f"{megabytes(here.disk_free_bytes)} free here")
    return table


def _libraries(installed: list[Library]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("library", "for", "tested", "installed", "fix")
    for library in installed:
        style = "green" if library.in_range else "yellow" if library.installed else "red"
        version = Text(library.installed or "missing", style=style)
        table.add_row(library.name, library.extra, Text(library.wanted), version, Text(library.fix or ""))
    return table


def _abilities(able: list[Ability]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("this machine can", "", "detail", "fix")
    for ability in able:
        answer = Text("yes", style="green") if ability.available else Text("no", style="yellow")
        table.add_row(ability.name, answer, Text(ability.detail), Text(ability.fix or ""))
    return table
