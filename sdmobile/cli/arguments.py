"""Options that several commands share, worded by the families."""

from __future__ import annotations

from typing import Annotated

import typer

from sdmobile.families import FAMILIES, component_names

COMPONENTS = f"{', '.join(component_names()[:-1])} or {component_names()[-1]}"
_STEPS = ", ".join(f"{family.default_steps} ({family.title})" for family in reversed(FAMILIES))
Steps = Annotated[
    int | None, typer.Option(min=1, max=1000, help=f"Scheduler steps; without it, the family's usual number: {_STEPS}.")
]
