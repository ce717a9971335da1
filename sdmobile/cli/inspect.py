"""`sdmobile inspect`: what a checkpoint is and which targets can take it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdmobile.basics.words import megabytes
from sdmobile.cli.arguments import (
    CHECKPOINT,
    ClipSkip,
    Control,
    Distilled,
    Embedding,
    Lora,
    PredictionType,
    Tokenizer,
    Vae,
    changes_of,
    controls_of,
    path,
)
from sdmobile.cli.output import Output

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from sdmobile.checkpoints.types import Checkpoint
    from sdmobile.exporters.preflight import PreflightReport


def inspect(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(parser=path, help=f"{CHECKPOINT} Without it, the bundled shapes-64."),
    ] = None,
    tokenizer: Tokenizer = None,
    prediction_type: PredictionType = None,
    distilled: Distilled = None,
    lora: Lora = None,
    embedding: Embedding = None,
    vae: Vae = None,
    clip_skip: ClipSkip = None,
    control: Control = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")] = False,
) -> None:
    """Say what a checkpoint is, read from its tensors, and whether each target can take it."""
    from sdmobile.checkpoints import open_checkpoint
    from sdmobile.exporters.preflight import preflight
    from sdmobile.exporters.request import ExportRequest
    from sdmobile.exporters.structures.find import models_with_structures
    from sdmobile.formats.bundle.contracts import TARGETS

    changes, controls = changes_of(lora, embedding, vae, clip_skip, distilled), controls_of(control)
    opened = open_checkpoint(checkpoint, tokenizer, prediction_type, changes, controls)
    requests = [ExportRequest(checkpoint, target, Path(opened.name)) for target in TARGETS]
    verdicts = [preflight(opened, request, models_with_structures(opened, request)) for request in requests]
    output = Output(json)
    output.data(_as_json(opened, verdicts), *([] if json else _views(opened, verdicts)))


def _as_json(checkpoint: Checkpoint, verdicts: list[PreflightReport]) -> dict[str, Any]:
    from sdmobile.families.control import controls_to_json

    return {
        "path": str(checkpoint.path),
        "name": checkpoint.name,
        "repository": None if checkpoint.origin is None else checkpoint.origin.repository,
        "commit": None if checkpoint.origin is None else checkpoint.origin.commit,
        "family": checkpoint.family.name,
        "format": checkpoint.format,
        "content_hash": checkpoint.content_hash,
        "license": checkpoint.license,
        "guidance_scale": checkpoint.guidance_scale,
        "steps": checkpoint.steps,
        "components": {
            name: {
                "class": info.class_name,
                "parameters": info.parameters,
                "bytes": info.bytes,
                "dtype": info.dtype,
                "files": [str(path) for path in info.weight_files],
            }
            for name, info in checkpoint.components.items()
        },
        "latent": [checkpoint.latent_channels, *checkpoint.latent_size],
        "image": [3, *checkpoint.image_size],
        "vae_scale_factor": checkpoint.vae_scale_factor,
        "scaling_factor": checkpoint.scaling_factor,
        "shift_factor": checkpoint.shift_factor,
        "context": [checkpoint.context_length, checkpoint.context_dim],
        "scheduler": checkpoint.scheduler_config,
        "prediction_type": checkpoint.prediction_type,
        "distilled": None if (distilled := checkpoint.given.distilled) is None else str(distilled),
        "tokenizer": None if checkpoint.tokenizer_dir is None else str(checkpoint.tokenizer_dir),
        "loras": [],
        **checkpoint.changes,
        "clip_skip": checkpoint.clip_skip,
        "control": controls_to_json(checkpoint.family.controls),
        "notes": list(checkpoint.notes),
        "targets": {verdict.target: verdict.to_json() for verdict in verdicts},
    }


def _views(checkpoint: Checkpoint, verdicts: list[PreflightReport]) -> list[RenderableType]:
    from rich.text import Text

    notes = [Text(f"note: {note}", style="yellow") for note in checkpoint.notes]
    return [_components(checkpoint), _facts(checkpoint), *notes, _targets(verdicts)]


def _components(checkpoint: Checkpoint) -> Table:
    from rich.table import Table

    table = Table(title=f"{checkpoint.name} ({checkpoint.format})", title_justify="left")
    for name in ("component", "class", "precision"):
        table.add_column(name)
    for name in ("parameters", "size"):
        table.add_column(name, justify="right")
    for name, info in checkpoint.components.items():
        table.add_row(name, info.class_name, info.dtype, f"{info.parameters:,}", megabytes(info.bytes))
    infos = checkpoint.components.values()
    total = (f"{sum(info.parameters for info in infos):,}", megabytes(sum(info.bytes for info in infos)))
    table.add_row("total", "", "", *total, style="bold")
    return table


def _facts(checkpoint: Checkpoint) -> Table:
    from rich.table import Table
    from rich.text import Text

    scheduler = checkpoint.scheduler_config
    (height, width), (rows, columns) = checkpoint.latent_size, checkpoint.image_size
    controls = ", ".join(f"{one.name} × {one.scale:g}" for one in checkpoint.family.controls)
    scaled = f"scaled by {checkpoint.scaling_factor:g}"
    scaled += f", shifted by {checkpoint.shift_factor:g}" if checkpoint.shift_factor else ""
    betas = f"betas {scheduler.get('beta_schedule')} {scheduler.get('beta_start')}…{scheduler.get('beta_end')}"
    noise = betas if "beta_start" in scheduler or "shift" not in scheduler else f"shift {scheduler['shift']}"
    facts = {
        "family": checkpoint.family.title,
        "latent": f"{checkpoint.latent_channels} × {height} × {width}, {scaled}",
        "image": f"3 × {rows} × {columns} pixels, {checkpoint.vae_scale_factor} per latent cell",
        "context": f"{checkpoint.context_length} tokens × {checkpoint.context_dim}",
        "scheduler": f"{scheduler.get('_class_name', 'not named')}, {noise}",
        "prediction": checkpoint.prediction_type,
        **({"controlled by": controls} if controls else {}),
        "tokenizer": str(checkpoint.tokenizer_dir or "none"),
        "license": checkpoint.license or "the checkpoint does not say",
        **({} if checkpoint.origin is None else {"on the Hub": str(checkpoint.origin)}),
        "content hash": checkpoint.content_hash,
    }
    table = Table(show_header=False, box=None)
    for key, value in facts.items():
        table.add_row(key, Text(value))
    return table


def _targets(verdicts: list[PreflightReport]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("target", "export", "remarks")
    for verdict in verdicts:
        answer = Text("yes", style="green") if verdict.possible else Text("no", style="red")
        table.add_row(
            verdict.target, answer, Text("\n".join([*verdict.problems, *verdict.warnings, *verdict.notes]) or "–")
        )
    return table
