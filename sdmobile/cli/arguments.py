"""What several commands share: how help is printed, and options worded by the families."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from sdmobile.families import FAMILIES, component_names

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

COMPONENTS = f"{', '.join(component_names()[:-1])} or {component_names()[-1]}"
_STEPS = ", ".join(f"{family.default_steps} ({family.title})" for family in reversed(FAMILIES))
Steps = Annotated[
    int | None, typer.Option(min=1, max=1000, help=f"Scheduler steps; without it, the family's usual number: {_STEPS}.")
]


class CommandGroup(TyperGroup):
    """Lists each command with its whole first sentence, which Typer cuts where the line ends."""

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.get_short_help_str(limit=1000)) for name, command in commands if command]
            )
