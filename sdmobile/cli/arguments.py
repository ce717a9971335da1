"""What several commands share: how help is printed, and options worded by the families."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from sdmobile.cli import output
from sdmobile.families import FAMILIES, component_names

if TYPE_CHECKING:
    from sdmobile.checkpoints import LoraFile

CHECKPOINT = "Diffusers folder, .safetensors or .ckpt file, or owner/name[@revision] on the Hub."
COMPONENTS = f"{', '.join(component_names()[:-1])} or {component_names()[-1]}"
_STEPS = ", ".join(f"{family.default_steps} ({family.title})" for family in reversed(FAMILIES))
Tokenizer = Annotated[
    Path | None,
    typer.Option(help="Folder of the tokenizer, for a checkpoint that has none; remembered for a single file."),
]
PredictionType = Annotated[
    str | None,
    typer.Option(help="epsilon, v_prediction or sample: what the denoiser predicts, where the checkpoint is wrong."),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        help="LoRA to fuse into the checkpoint's weights (safetensors with Diffusers' or kohya's names); repeatable.",
        metavar="FILE[:SCALE]",
    ),
]
ControlModel = Annotated[
    Path | None,
    typer.Option(help="Folder of the control network that goes with a checkpoint, or with a bundle's reference."),
]
Steps = Annotated[
    int | None, typer.Option(min=1, max=1000, help=f"Scheduler steps; without it, the family's usual number: {_STEPS}.")
]


def lora_files(texts: list[str] | None) -> tuple[LoraFile, ...]:
    """Returns what `--lora` names; raises UsageError where a scale is no finite number."""
    from sdmobile.checkpoints import LoraFile

    return tuple(LoraFile.parse(text) for text in texts or ())


def _debug(wanted: bool) -> None:
    output.show_all(wanted or output.shows_all())


def _quiet(wanted: bool) -> None:
    output.be_quiet(wanted or output.is_quiet())


# Told to the sink of all output; `SharedOptions` lets them stand before the command's name and behind it.
Debug = Annotated[
    bool,
    typer.Option(
        "--debug", callback=_debug, expose_value=False, help="Show what libraries print, and an error's traceback."
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", callback=_quiet, expose_value=False, help="Print results, warnings and errors, nothing else."
    ),
]


class CommandGroup(TyperGroup):
    """Lists each command with its whole first sentence, which Typer cuts where the line ends."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for command in self.commands.values():
            command.short_help = command.get_short_help_str(limit=1000)


class SharedOptions(CommandGroup):
    """The whole program: `--debug` and `--quiet` are options of every command, too."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        _share([option for option in self.params if option.name in ("debug", "quiet")], self)


def _share(options: list[Any], group: TyperGroup) -> None:
    for command in group.commands.values():
        if isinstance(command, TyperGroup):
            _share(options, command)
        else:
            command.params = [*command.params, *options]
