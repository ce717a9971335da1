"""`sdmobile train shapes`: train the bundled checkpoint; `sdmobile train evaluate`: how well it obeys."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from sdmobile.basics.words import nearest
from sdmobile.cli.arguments import ClipSkip, CommandGroup, Embedding, Lora, Vae, changes_of, path
from sdmobile.cli.output import remark
from sdmobile.cli.progress import step_progress
from sdmobile.errors import OutputError

_CONTROL = (
    "Folder of a control network, for a checkpoint: every prompt is drawn with the silhouette of its scene, and how "
    "the shapes cover it is measured. A bundle with a control network needs no option."
)
train_app = typer.Typer(help="Train and judge the bundled checkpoint.", cls=CommandGroup, no_args_is_help=True)
# What both ways of judging take.
_Folder = Annotated[Path, typer.Option("--output", "-o", help="Where obedience.json and samples.png go.")]
_Prompts = Annotated[int, typer.Option(min=1, help="Number of held-out prompts.")]
_Steps = Annotated[int | None, typer.Option(min=1, help="Sampling steps; without it, the checkpoint's own.")]
_Guidance = Annotated[
    float | None, typer.Option(help="Classifier-free guidance scale; without it, the checkpoint's own or 7.5.")
]
_Runtime = Annotated[str, typer.Option(help="auto, torch, evaluator, evaluator-fp16, coreml, litert or ort.")]


@train_app.command()
def shapes(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run; a stopped run goes on there.")
    ] = Path("runs/shapes-64"),
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the UNet's stage.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 0,
    quick: Annotated[int | None, typer.Option(help="So many tiny steps per stage: a test of the command.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    evaluate_prompts: Annotated[int, typer.Option(min=0, help="Held-out prompts to judge at the end.")] = 200,
) -> None:
    """Train `shapes-64`: autoencoder, text encoder, UNet; about two hours on two cores, resumable at any time."""
    from sdmobile.training.config import TrainConfig
    from sdmobile.training.shapes import evaluate as judge
    from sdmobile.training.shapes import quick as quick_config
    from sdmobile.training.shapes import train_shapes

    if quick is not None and quick < 1:
        raise typer.BadParameter(f"--quick is a number of steps, at least 1; not {quick}")
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    config = TrainConfig(output, seed=seed)
    if steps is not None:
        config = replace(config, unet=replace(config.unet, steps=steps))
    if quick is not None:
        config = quick_config(config, quick)

    def report(stage: str, step: int, total: int, loss: float) -> None:
        remark(f"{stage:5} {step:6d}/{total}  loss {loss:.4f}")

    folder = train_shapes(config, report)
    if evaluate_prompts:
        with step_progress() as progress:
            progress("judging", 0, evaluate_prompts)
            record = judge(folder, output, lambda done, total: progress("judging", done, total), evaluate_prompts)
        _say(record)
    typer.echo(str(folder))


@train_app.command()
def mobile(
    stage: Annotated[
        str,
        typer.Argument(
            help="structure, decoder, relu, guidance, progressive, regression, adversarial, lora, inpaint, control, "
            "plugin, or all."
        ),
    ] = "all",
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run; a stopped run goes on there.")
    ] = Path("runs/shapes-64-mobile"),
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 0,
    quick: Annotated[
        int | None, typer.Option(min=1, help="So many tiny steps per stage: a test of the command.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    distilled: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="For lora, inpaint, control and plugin: checkpoint of few steps, such as shapes-64-mobile, to make "
            "their base of, in the place of what stage relu leaves.",
        ),
    ] = None,
) -> None:
    """Train `shapes-64-mobile` from `shapes-64`, stage by stage, resumable at any time."""
    from sdmobile.training.mobile.config import MobileConfig
    from sdmobile.training.mobile.config import quick as quick_config
    from sdmobile.training.mobile.run import ON_BASE, STAGES, train_mobile

    if stage != "all" and stage not in STAGES:
        rule = f"the stage must be all or one of {', '.join(STAGES)}; not {stage}."
        raise typer.BadParameter(f"{rule} {nearest(stage, ('all', *STAGES)) or ''}".strip())
    if distilled is not None and stage not in ON_BASE:
        raise typer.BadParameter(f"--from is for the stages {', '.join(ON_BASE)}; not {stage}")
    if threads is not None:
        import torch

        torch.set_num_threads(threads)

    def report(stage: str, step: int, total: int, loss: float) -> None:
        remark(f"{stage:11} {step:6d}/{total}  loss {loss:.5f}")

    config = MobileConfig(output, seed=seed, distilled=distilled)
    if quick is not None:
        config = quick_config(config, quick)
    train_mobile(config, tuple(STAGES) if stage == "all" else (stage,), report)
    typer.echo(str(output))


@train_app.command()
def dit(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run; a stopped run goes on there.")
    ] = Path("runs/shapes-64-dit"),
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the transformer's stage.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 0,
    quick: Annotated[
        int | None, typer.Option(min=1, help="So many tiny steps per stage: a test of the command.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Train `shapes-64-dit`, a transformer with flow matching, on `shapes-64`'s latents; resumable at any time."""
    from sdmobile.training.dit.config import DitConfig
    from sdmobile.training.dit.config import quick as quick_config
    from sdmobile.training.dit.run import train_dit

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    config = DitConfig(output, seed=seed)
    if steps is not None:
        config = replace(config, transformer=replace(config.transformer, steps=steps))
    if quick is not None:
        config = quick_config(config, quick)

    def report(stage: str, step: int, total: int, loss: float) -> None:
        remark(f"{stage:14} {step:6d}/{total}  loss {loss:.5f}")

    typer.echo(str(train_dit(config, report)))


@train_app.command()
def evaluate(
    source: Annotated[
        Path | None, typer.Argument(parser=path, help="Checkpoint or bundle; without it, the bundled checkpoint.")
    ] = None,
    output: _Folder = Path("runs/evaluation"),
    prompts: _Prompts = 200,
    steps: _Steps = None,
    guidance: _Guidance = None,
    lora: Lora = None,
    embedding: Embedding = None,
    vae: Vae = None,
    clip_skip: ClipSkip = None,
    runtime: _Runtime = "auto",
    pictures: Annotated[
        int,
        typer.Option(min=0, help="Pictures to compare with as many rendered ones (KID, precision, recall, entropy)."),
    ] = 0,
    control: Annotated[Path | None, typer.Option(help=_CONTROL)] = None,
) -> None:
    """Judge how many held-out prompts a shapes checkpoint, or a bundle of it, obeys."""
    from sdmobile.training.distribution import FEWEST
    from sdmobile.training.shapes import evaluate as judge

    if 0 < pictures < FEWEST:
        raise typer.BadParameter(f"--pictures is 0 or at least {FEWEST}, to have neighbours; not {pictures}")
    with step_progress() as progress:
        progress("judging", 0, prompts)
        record = judge(
            source,
            output,
            lambda done, total: progress("judging", done, total),
            prompts,
            steps,
            guidance,
            runtime,
            pictures,
            changes_of(lora, embedding, vae, clip_skip),
            control,
        )
    _say(record)
    typer.echo(str(output))


@train_app.command()
def evaluate_inpainting(
    source: Annotated[Path, typer.Argument(parser=path, help="Inpainting checkpoint or bundle.", show_default=False)],
    output: _Folder = Path("runs/evaluation"),
    prompts: _Prompts = 200,
    steps: _Steps = None,
    guidance: _Guidance = None,
    lora: Lora = None,
    embedding: Embedding = None,
    vae: Vae = None,
    clip_skip: ClipSkip = None,
    runtime: _Runtime = "auto",
) -> None:
    """Judge repainting: the first shape of each held-out prompt's rendering is masked and drawn anew."""
    from sdmobile.training.inpainting import evaluate_inpainting as judge

    with step_progress() as progress:
        progress("judging", 0, prompts)
        record = judge(
            source,
            output,
            lambda done, total: progress("judging", done, total),
            prompts,
            steps,
            guidance,
            runtime,
            changes_of(lora, embedding, vae, clip_skip),
        )
    _say(record)
    typer.echo(str(output))


@train_app.command()
def features(
    output: Annotated[Path, typer.Option("--output", "-o", help="The safetensors file to write.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of 64 rendered scenes.")] = 4000,
    seed: Annotated[int, typer.Option(help="Seed of weights and scenes.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
) -> None:
    """Train the small network by whose features `evaluate --pictures` compares drawn and rendered pictures."""
    from sdmobile.training.features import held_out_accuracy, save_features, train_features

    if output.exists() and not overwrite:
        raise OutputError("the file must not exist yet", output, "Choose another -o, or add --overwrite.")
    output.parent.mkdir(parents=True, exist_ok=True)
    with step_progress() as progress:
        progress("training", 0, steps)
        net = train_features(steps, 64, seed, lambda done, total, _loss: progress("training", done, total))
    save_features(net, output, overwrite)
    share = 100 * held_out_accuracy(net)
    remark(f"{share:.2f} % of the answers are right on 1000 scenes of held-out combinations")
    typer.echo(str(output))


def _say(record: dict[str, Any]) -> None:
    low, high = (100 * share for share in record["interval_95"])
    obeyed, prompts, share = record["obeyed"], record["prompts"], 100 * record["share"]
    remark(
        f"{obeyed} of {prompts} held-out prompts obeyed ({share:.1f} %, 95 % interval {low:.1f} to {high:.1f}); "
        f"{100 * record['claims']:.1f} % of their claims"
    )
    if (hollowness := record.get("hollowness")) is not None:
        remark(f"the middles of shapes are {hollowness:.2f} background: 1 in the style of stage lora, 0 without it")
    if (outside := record.get("outside_of_the_mask")) is not None:
        remark(f"mean difference outside of the masks: {outside:.2f} of 255 levels")
    if "control" in record:
        remark(f"{100 * record['iou']:.1f} % of silhouette and drawn shapes in common (mean IoU)")
    if (found := record.get("distribution")) is None:
        return
    for name, row in (("drawn", found), *found["floors"].items()):
        mean, spread = row["kid"]
        near = f"precision {row['precision']:.3f}, recall {row['recall']:.3f}"
        remark(f"{name:12} shapes-KID {mean:.4f} ± {spread:.4f}, {near}")
    for name, (drawn, ideal) in found["bits"].items():
        remark(f"{name} left open: {drawn:.2f} bits, {ideal:.2f} if chosen evenly")
