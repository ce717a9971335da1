"""What several commands share: how help is printed, and options worded by the families."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from sdmobile.cli import output
from sdmobile.families import FAMILIES, component_names
from sdmobile.families.few_steps import KINDS, Distillation

if TYPE_CHECKING:
    from sdmobile.checkpoints.changes import Changes
    from sdmobile.checkpoints.control import ControlFolder

CHECKPOINT = "Diffusers folder, .safetensors or .ckpt file, or owner/name[@revision] on the Hub."
COMPONENTS = f"{', '.join(component_names()[:-1])} or {component_names()[-1]}"
_STEPS = ", ".join(f"{family.default_steps} ({family.title})" for family in reversed(FAMILIES))


def path(text: str) -> Path:
    """Returns a path; one that is said to be here (./owner/name) is not taken for a name on the Hub."""
    return Path(text).absolute() if text.startswith("./") else Path(text)


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
        help="LoRA, LoCon, LoHa or LoKr to fuse into the checkpoint's weights (safetensors with Diffusers', kohya's or "
        "LyCORIS' names), here or on the Hub; repeatable.",
        metavar="FILE[:SCALE]",
    ),
]
Embedding = Annotated[
    list[str] | None,
    typer.Option(
        help="Learned word (textual inversion: safetensors, or .pt and .bin read without running them) for prompts, "
        "here or on the Hub; repeatable.",
        metavar="FILE[:TOKEN]",
    ),
]
Vae = Annotated[
    Path | None,
    typer.Option(
        parser=path,
        help="Autoencoder in the place of the checkpoint's: a Diffusers folder (TAESD too) or a single file, here or "
        "on the Hub.",
    ),
]
ClipSkip = Annotated[
    int | None,
    typer.Option(min=1, help="Leave out so many layers at the end of the text encoder, as Diffusers' clip_skip."),
]
Distilled = Annotated[
    str | None,
    typer.Option(
        help="How a checkpoint without a scheduler that says so, or a LoRA, was distilled to few steps: "
        f"{', '.join(KINDS)} with the number of steps it was made for, as lightning:4; none if only its name looks so.",
        metavar="KIND[:STEPS]",
    ),
]
ControlModel = Annotated[
    list[str] | None,
    typer.Option(
        help="Folder of the control network that goes with a checkpoint, or with a bundle's reference; here or on the "
        "Hub; repeatable.",
        metavar="FOLDER[:SCALE]",
    ),
]
Control = Annotated[
    list[str] | None,
    typer.Option(
        help="Folder of a control network, a ControlNet or a plugin in Diffusers' format, here or on the Hub, to "
        "export with a UNet that takes what it adds, times the scale; repeatable: what several add is summed.",
        metavar="FOLDER[:SCALE]",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        "--resolution",
        help="Width and height of the picture in pixels, of a checkpoint; one number for both.",
        metavar="N|WxH",
    ),
]
Steps = Annotated[
    int | None, typer.Option(min=1, max=1000, help=f"Scheduler steps; without it, the family's usual number: {_STEPS}.")
]


def resolution_of(text: str | None) -> tuple[int, int] | None:
    """Returns height and width of `512` or `512x768`, which is width before height.

    Raises:
        UsageError: it is neither.
    """
    from sdmobile.errors import UsageError

    if text is None:
        return None
    sides = text.lower().split("x")
    try:
        width, height = (int(side) for side in (sides * 2 if len(sides) == 1 else sides))
    except ValueError as error:
        raise UsageError("--resolution is a number of pixels, or WIDTHxHEIGHT", text[:40], "Write 512x768") from error
    return height, width


def changes_of(
    loras: list[str] | None,
    embeddings: list[str] | None,
    vae: Path | None,
    clip_skip: int | None = None,
    distilled: str | None = None,
) -> Changes:
    """Returns what is put on top of a checkpoint; raises UsageError where a scale, a token or a kind is none."""
    from sdmobile.checkpoints.changes import Changes
    from sdmobile.checkpoints.embeddings import EmbeddingFile
    from sdmobile.checkpoints.hub_parts import VAE, located
    from sdmobile.checkpoints.lora import LoraFile

    files = tuple(LoraFile.parse(text) for text in loras or ())
    words = tuple(EmbeddingFile.parse(text) for text in embeddings or ())
    few = None if distilled is None else Distillation.parse(distilled)
    return Changes(files, words, None if vae is None else located(vae, VAE), clip_skip, few)


def controls_of(folders: list[str] | None) -> tuple[ControlFolder, ...]:
    """Returns the control networks that go with a checkpoint; raises UsageError where a scale is none."""
    from sdmobile.checkpoints.control import ControlFolder

    return tuple(ControlFolder.parse(text) for text in folders or ())


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
