"""`sdmobile generate`: make a picture with an exported bundle, or with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdmobile.cli.arguments import (
    ClipSkip,
    ControlModel,
    Distilled,
    Embedding,
    Lora,
    PredictionType,
    Size,
    Steps,
    Tokenizer,
    Vae,
    changes_of,
    controls_of,
    path,
    resolution_of,
)

if TYPE_CHECKING:
    from sdmobile.reference.pipeline import PipelineSpec
    from sdmobile.reference.sampling import SampleRequest

_BUNDLE = "A bundle, or a checkpoint (then PyTorch runs it); without it, the checkpoint that sdmobile ships."
_GUIDANCE = "Classifier-free guidance scale, at most 1 for none; without it, the checkpoint's recommended one or 7.5."
_IMAGE_GUIDANCE = (
    "How near to --image a model stays that edits as --prompt instructs, at least 1 (Diffusers' image_guidance_scale); "
    "without it, the model's usual one."
)
_IMAGE = (
    "Picture to start from: to repaint with an inpainting model, to edit with one that --prompt instructs, or to "
    "change by --strength with any other."
)
_MASK = "Picture that is white where --image is repainted, for inpainting models."
_STRENGTH = "Share of the steps that are run on --image, above 0 to 1; without it, 1 for inpainting, else 0.8."
_CONTROL = (
    "Picture that controls, for a bundle with a control network, or for a checkpoint with --control-model; of several "
    "networks each has its own, in their order."
)
_RUNTIME = "auto, torch, evaluator, evaluator-fp16, coreml, litert or ort, as far as the bundle's target has it."


def generate(
    bundle: Annotated[Path | None, typer.Argument(parser=path, help=_BUNDLE, show_default=False)] = None,
    *,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What to draw.", show_default=False)],
    negative: Annotated[str, typer.Option(help="What to stay away from.")] = "",
    image: Annotated[Path | None, typer.Option(help=_IMAGE)] = None,
    mask: Annotated[Path | None, typer.Option(help=_MASK)] = None,
    strength: Annotated[float | None, typer.Option(help=_STRENGTH)] = None,
    resolution: Size = None,
    steps: Steps = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the initial noise.")] = 0,
    guidance: Annotated[float | None, typer.Option(help=_GUIDANCE)] = None,
    image_guidance: Annotated[float | None, typer.Option(help=_IMAGE_GUIDANCE)] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="ddim, pndm, dpm++, euler, …; without it, the checkpoint's own.")
    ] = None,
    control: Annotated[list[Path] | None, typer.Option(help=_CONTROL, metavar="IMAGE")] = None,
    control_model: ControlModel = None,
    tokenizer: Tokenizer = None,
    prediction_type: PredictionType = None,
    distilled: Distilled = None,
    lora: Lora = None,
    embedding: Embedding = None,
    vae: Vae = None,
    clip_skip: ClipSkip = None,
    runtime: Annotated[str, typer.Option(help=_RUNTIME)] = "auto",
    reference: Annotated[
        Path | None, typer.Option(parser=path, help="The bundle's source checkpoint, for `--runtime torch`.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the runtime.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG to write.")] = Path("picture.png"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the picture if it exists.")] = False,
) -> None:
    """Make or change a picture with the exported files; prompt, seed, steps and model hash go into the PNG's text."""
    from sdmobile.basics.files import write_whole
    from sdmobile.cli.output import remark
    from sdmobile.cli.progress import step_progress
    from sdmobile.errors import OutputError
    from sdmobile.formats.bundle.reading import is_bundle
    from sdmobile.reference.condition import requested_conditions
    from sdmobile.reference.pictures import EditFiles
    from sdmobile.reference.sampling import SampleRequest, sample
    from sdmobile.reference.source import open_source
    from sdmobile.report.figures import png_bytes

    if output.exists() and not overwrite:
        raise OutputError("the picture must not exist yet", output, "Choose another -o, or add --overwrite.")
    files, changes = EditFiles(image, mask, strength), changes_of(lora, embedding, vae, clip_skip, distilled)
    with step_progress() as progress:
        runner, spec, model_hash = open_source(
            bundle,
            runtime,
            reference,
            threads,
            tokenizer,
            prediction_type,
            changes,
            controls_of(control_model),
            resolution_of(resolution),
        )
        scale = spec.guidance_scale if guidance is None else guidance
        if bundle is None or not is_bundle(bundle):  # a bundle's files decide how many rows there are
            spec = spec.guided_at(scale)
        spec.check_asked(guidance)
        spec.check_image_asked(image_guidance, scale)
        steps = spec.steps if steps is None else steps
        edit = files.read(spec.family, spec.geometry, runner.components)
        conditions = requested_conditions(spec, control or ())
        progress(f"sampling with {runner.name}", 0, 1)
        request = SampleRequest(prompt, negative, steps, seed, scale, scheduler, edit, conditions, image_guidance)
        result = sample(
            runner, spec, request, on_step=lambda done, total: progress(f"sampling with {runner.name}", done, total)
        )
    texts = picture_texts(request, spec, runner.name, model_hash) | files.texts(edit)
    if (image_scale := spec.family.default_image_guidance_scale) is not None:
        texts["image_guidance"] = f"{image_scale if image_guidance is None else image_guidance:g}"
    if control:
        hashes = request.to_json()["control"]
        texts |= {"control": ", ".join(file.name for file in control), "control_hash": ", ".join(hashes)}
    if changes.options:
        texts["changes"] = " ".join(changes.options)
    picture = png_bytes(result.image, texts)
    write_whole(output, picture, overwrite)
    typer.echo(str(output))
    for component, seconds in result.seconds.items():
        remark(f"{component}: {seconds:.2f} s")


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
