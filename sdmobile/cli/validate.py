"""`sdmobile validate`: compare a bundle with float32 PyTorch."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdmobile.cli.arguments import (
    COMPONENTS,
    ControlModel,
    Embedding,
    Lora,
    Steps,
    Vae,
    changes_of,
    controls_of,
    path,
)

if TYPE_CHECKING:
    from sdmobile.validate.check import Validation
    from sdmobile.validate.results import ValidationReport
    from sdmobile.validate.thresholds import Thresholds

_MAX_PROMPTS = 1 << 20
_COMPONENTS = f"Check only these, separated by commas: {COMPONENTS}."
_RUNTIME = (
    "auto for every runtime that this machine has; or evaluator (float32), evaluator-fp16 (float16 values, sums in "
    "float32: nearest to a phone), evaluator-fp16acc (sums in float16 too), coreml, coreml-cpu, coreml-gpu, "
    "coreml-ne, litert, ort."
)
_OVERFLOW = "Look for values that float16 cannot hold, in the float32 reference, by module and step."
_PRECISION = (
    "Android: simulate float16 with sums in float32 on each component's graph, and say which precision an app should "
    "ask the GPU for."
)
_BISECT = (
    "Cut the smallest failing subgraph out of each component, also of those that passed, and save it with its inputs."
)
_BENCHMARK = "LiteRT's benchmark_model for Android: run the files with it on the phone that adb finds."
_PHONE_RUN = "What a phone sent to `sdmobile serve` (or its page saved): judged again, and in the report; repeatable."
_LINT = "Predict what the phone's runtime says: report a refusal as a warning, or fail."
_GPU = "Run Android files on Google's GPU engine with a software GPU: in a browser, by the Python wheel, or both."
_GOLDEN = "Put a few recorded calls into an Android bundle (golden.json, golden.bin), for `sdmobile serve`."


class Lint(str, Enum):
    """What a predicted refusal is."""

    OFF = "off"
    REPORT = "report"
    FAIL = "fail"


class Gpu(str, Enum):
    """Ways of the GPU check."""

    OFF = "off"
    BROWSER = "browser"
    WHEEL = "wheel"
    BOTH = "both"


class Format(str, Enum):
    """What `validate` prints."""

    TEXT = "text"
    JSON = "json"
    JUNIT = "junit"
    MARKDOWN = "markdown"


def validate(
    bundle: Annotated[Path, typer.Argument(help="Folder that `sdmobile export` wrote.", show_default=False)],
    reference: Annotated[
        Path | None,
        typer.Option(parser=path, help="Checkpoint the bundle was exported from; without it, the one sdmobile ships."),
    ] = None,
    lora: Lora = None,
    embedding: Embedding = None,
    vae: Vae = None,
    control_model: ControlModel = None,
    components: Annotated[str | None, typer.Option(help=_COMPONENTS)] = None,
    runtime: Annotated[str, typer.Option(help=_RUNTIME)] = "auto",
    prompts: Annotated[Path | None, typer.Option(help="Text file with one prompt per line.")] = None,
    steps: Steps = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the first prompt.")] = 0,
    guidance: Annotated[
        float | None, typer.Option(help="Classifier-free guidance scale; without it, the checkpoint's own or 7.5.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="ddim, pndm, dpm++, euler, …; without it, the checkpoint's own.")
    ] = None,
    max_samples: Annotated[int, typer.Option(min=1, help="Most recorded inputs per component.")] = 9,
    trajectory: Annotated[bool, typer.Option("--trajectory/--no-trajectory", help="Sample whole pictures too.")] = True,
    threshold_db: Annotated[
        float | None, typer.Option(help="Least PSNR of components and images in dB, instead of the defaults.")
    ] = None,
    thresholds: Annotated[Path | None, typer.Option(help="TOML file with limits per component and runtime.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the runtime.")] = None,
    overflow: Annotated[bool, typer.Option("--overflow", help=_OVERFLOW)] = False,
    precision: Annotated[bool, typer.Option("--precision", help=_PRECISION)] = False,
    bisect: Annotated[bool, typer.Option("--bisect", help=_BISECT)] = False,
    bisect_dir: Annotated[Path | None, typer.Option(help="Where --bisect saves; without it, BUNDLE-bisect.")] = None,
    lint: Annotated[Lint, typer.Option(help=_LINT)] = Lint.REPORT,
    gpu: Annotated[Gpu, typer.Option(help=_GPU)] = Gpu.OFF,
    benchmark_model: Annotated[Path | None, typer.Option(help=_BENCHMARK)] = None,
    adb_serial: Annotated[
        str | None, typer.Option(help="Serial number of the phone, if several are connected.")
    ] = None,
    phone_run: Annotated[list[Path] | None, typer.Option(help=_PHONE_RUN)] = None,
    report_dir: Annotated[
        Path | None,
        typer.Option("--report-dir", "-o", help="Write report.html, validation.json, .md, .xml and images here."),
    ] = None,
    record_dir: Annotated[Path | None, typer.Option(help="Save the recorded inputs here as .npz files.")] = None,
    golden: Annotated[bool, typer.Option("--golden/--no-golden", help=_GOLDEN)] = True,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither reuse nor keep the reference's runs.")] = False,
    format: Annotated[Format, typer.Option(help="What to print to stdout.")] = Format.TEXT,
    json_output: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Compare a bundle with float32 PyTorch: components, whole trajectories, final images.

    The exit code is 0 if every check passed that was run, 3 if anything is below its threshold or could not be
    computed, 4 if the bundle or the checkpoint is damaged or not the right one, 2 for wrong usage.
    """
    from sdmobile.cli.progress import step_progress
    from sdmobile.errors import EXIT_BELOW_THRESHOLD
    from sdmobile.reference.recording import DEFAULT_PROMPTS
    from sdmobile.reference.recording_cache import default_recordings_dir
    from sdmobile.validate.check import validate_bundle
    from sdmobile.validate.checkers import CheckerChoice
    from sdmobile.validate.options import ValidationOptions

    options = ValidationOptions(
        reference=reference,
        controls=controls_of(control_model),
        prompts=DEFAULT_PROMPTS if prompts is None else read_prompts(prompts),
        steps=steps,
        seed=seed,
        guidance_scale=guidance,
        scheduler=scheduler,
        components=None if components is None else tuple(name.strip() for name in components.split(",")),
        runtime=runtime,
        max_samples=max_samples,
        trajectory=trajectory,
        thresholds=_thresholds(threshold_db, thresholds),
        threads=threads,
        recording_dir=record_dir,
        cache_dir=None if no_cache else default_recordings_dir(),
        overflow=overflow,
        precision=precision,
        checkers=CheckerChoice(lint.value, gpu.value, benchmark_model, adb_serial, tuple(phone_run or ())).checkers(),
        changes=changes_of(lora, embedding, vae),
        golden=golden,
        bisect_dir=(bisect_dir or Path(f"{bundle.name}-bisect")) if bisect else None,
    )
    with step_progress() as progress:
        validation = validate_bundle(bundle, options, progress)
    if report_dir is not None:
        _write_report(validation, report_dir)
    _show(validation.report, Format.JSON if json_output else format)
    if not validation.report.passed:
        raise typer.Exit(EXIT_BELOW_THRESHOLD)


def _thresholds(decibels: float | None, file: Path | None) -> Thresholds:
    from sdmobile.validate.thresholds import Thresholds, read_thresholds

    if decibels is not None and file is not None:
        raise typer.BadParameter("--threshold-db and --thresholds exclude each other")
    if file is not None:
        return read_thresholds(file)
    return Thresholds() if decibels is None else Thresholds.flat(decibels)


def read_prompts(file: Path) -> tuple[str, ...]:
    """Returns the lines of a file that are not empty.

    Raises:
        typer.BadParameter: the file cannot be read or holds no prompt.
    """
    from sdmobile.basics.untrusted import read_bounded

    try:
        text = read_bounded(file, _MAX_PROMPTS).decode("utf-8")
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"--prompts names a text file with one prompt per line: {error}") from error
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise typer.BadParameter(f"--prompts names a text file with one prompt per line: {file} is empty")
    return lines


def _write_report(validation: Validation, folder: Path) -> None:
    from sdmobile.families.model_card import model_card
    from sdmobile.report.folder import write_report

    manifest, report = validation.manifest, validation.report.to_json()
    write_report(folder, manifest, report, validation.images, model_card(manifest, report))


def _show(report: ValidationReport, form: Format) -> None:
    from sdmobile.cli.output import Output, failure
    from sdmobile.cli.validate_view import tables
    from sdmobile.report.junit import junit
    from sdmobile.report.markdown import markdown

    if form is Format.JUNIT:
        typer.echo(junit(report.to_json()), nl=False)
    elif form is Format.MARKDOWN:
        typer.echo(markdown(report.to_json()), nl=False)
    else:
        Output(form is Format.JSON).data(report.to_json(), *tables(report))
    failures = "\n".join(report.failures)
    for line in (*report.failures, *(culprit.after(failures) for culprit in report.culprits)):
        failure(line)
