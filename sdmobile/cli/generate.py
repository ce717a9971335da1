"""`sdmobile generate`: make a picture with an exported bundle, or with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdmobile.cli.arguments import ControlModel, PredictionType, Steps, Tokenizer

if TYPE_CHECKING:
    from sdmobile.reference.sampling import PipelineSpec, SampleRequest

_BUNDLE = "A bundle, or a checkpoint (then PyTorch runs it); without it, the checkpoint that sdmobile ships."
_GUIDANCE = "Classifier-free guidance scale, at most 1 for none; without it, the checkpoint's recommended one or 7.5."
_CONTROL = "Picture that controls, for a bundle with a control network, or for a checkpoint with --control-model."
_RUNTIME = "auto, torch, evaluator, evaluator-fp16, coreml, litert or ort, as far as the bundle's target has it."


def generate(
    bundle: Annotated[Path | None, typer.Argument(help=_BUNDLE, show_default=False)] = None,
    *,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What to draw.", show_default=False)],
    negative: Annotated[str, typer.Option(help="What to stay away from.")] = "",
    steps: Steps = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the initial noise.")] = 0,
    guidance: Annotated[float | None, typer.Option(help=_GUIDANCE)] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="ddim, pndm, dpm++, euler, …; without it, the checkpoint's own.")
    ] = None,
    control: Annotated[Path | None, typer.Option(help=_CONTROL)] = None,
    control_model: ControlModel = None,
    tokenizer: Tokenizer = None,
    prediction_type: PredictionType = None,
    runtime: Annotated[str, typer.Option(help=_RUNTIME)] = "auto",
    reference: Annotated[
        Path | None, typer.Option(help="The bundle's source checkpoint, for `--runtime torch`.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the runtime.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG to write.")] = Path("picture.png"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the picture if it exists.")] = False,
) -> None:
    """Make a picture with the exported files; prompt, seed, steps and model hash go into the PNG's text."""
    from sdmobile.basics.files import write_whole
    from sdmobile.cli.progress import step_progress
    from sdmobile.errors import OutputError
    from sdmobile.reference.condition import requested_condition
    from sdmobile.reference.sampling import SampleRequest, sample
    from sdmobile.reference.source import open_source
    from sdmobile.report.figures import png_bytes

    if output.exists() and not overwrite:
        raise OutputError("the picture must not exist yet", output, "Choose another -o, or add --overwrite.")
    with step_progress() as progress:
        runner, spec, model_hash = open_source(
            bundle, runtime, reference, threads, tokenizer, prediction_type, control=control_model
        )
        scale = spec.guidance_scale if guidance is None else guidance
        steps = spec.steps if steps is None else steps
        condition = requested_condition(spec, control)
        request = SampleRequest(prompt, negative, steps, seed, scale, scheduler, control=condition)
        result = sample(
            runner, spec, request, on_step=lambda done, total: progress(f"sampling with {runner.name}", done, total)
        )
    picture = png_bytes(result.image, picture_texts(request, spec, runner.name, model_hash))
    write_whole(output, picture, overwrite)
    typer.echo(str(output))
    for component, seconds in result.seconds.items():
        typer.echo(f"{component}: {seconds:.2f} s", err=True)


def picture_texts(request: SampleRequest, spec: PipelineSpec, runtime: str, model_hash: str) -> dict[str, str]:
    """Returns the text chunks that tell how to make the picture again."""
    from sdmobile import __version__

    return {
        "prompt": request.prompt,
        "negative": request.negative,
        "seed": str(request.seed),
        "steps": str(request.steps),
        "guidance": f"{request.guidance_scale:g}",
        "scheduler": request.scheduler or str(spec.scheduler_config.get("_class_name", "")),
        "runtime": runtime,
        "model_hash": model_hash,
        "sdmobile": __version__,
    }
