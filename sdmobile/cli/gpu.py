"""`sdmobile gpu-check`: does the Android GPU take the file, and compute the right function."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdmobile.basics.words import nearest
from sdmobile.cli import output
from sdmobile.cli.arguments import ControlModel, Embedding, Lora, Vae, changes_of, controls_of, path

if TYPE_CHECKING:
    from rich.table import Table

    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.validate.gpu.bundle import GpuReport

_WAY = "browser (LiteRT.js in headless Chromium), wheel (ai-edge-litert on lavapipe, adds float16), or both."
_RECORDING = "Folder that `sdmobile validate --record-dir` wrote; without it, inputs are recorded now."
_STEPS = "Scheduler steps when inputs are recorded now."


def gpu_check(
    path: Annotated[
        Path, typer.Argument(help="Android bundle, or a .tflite file.", metavar="BUNDLE_OR_TFLITE", show_default=False)
    ],
    way: Annotated[str, typer.Option(help=_WAY)] = "browser",
    reference: Annotated[
        Path | None,
        typer.Option(parser=path, help="Checkpoint the bundle was exported from; without it, the one sdmobile ships."),
    ] = None,
    lora: Lora = None,
    embedding: Embedding = None,
    vae: Vae = None,
    control_model: ControlModel = None,
    recording: Annotated[Path | None, typer.Option(help=_RECORDING)] = None,
    components: Annotated[str | None, typer.Option(help="Check only these, separated by commas.")] = None,
    steps: Annotated[int, typer.Option(min=1, max=1000, help=_STEPS)] = 4,
    max_samples: Annotated[int, typer.Option(min=1, help="Most recorded inputs per component.")] = 2,
    threshold_db: Annotated[float, typer.Option(help="Least PSNR in dB.")] = 35.0,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for each check.")] = 600.0,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run Google's GPU engine on this machine: is every operator accepted, and is the result right?

    A bundle is compared with float32 PyTorch, a file alone with LiteRT on the CPU. The exit code is 3 if a file is
    refused, crashes, hangs or computes something else; 8 if a check could not run (see `make gpu-setup`).
    """
    from sdmobile.cli.output import Output
    from sdmobile.cli.progress import step_progress
    from sdmobile.reference.recording import load_recording
    from sdmobile.validate.gpu.bundle import COMBINATIONS, check_bundle_gpu, check_tflite, limited, record_inputs

    if way not in COMBINATIONS:
        rule = f"--way is one of {', '.join(COMBINATIONS)}; not {way}."
        raise typer.BadParameter(f"{rule} {nearest(way, COMBINATIONS) or ''}".strip())
    chosen = COMBINATIONS[way]
    with step_progress() as progress:
        if path.is_file():
            report = check_tflite(path, chosen, timeout, threshold_db, progress)
        else:
            bundle, names = _opened(path, components)
            changes, controls = changes_of(lora, embedding, vae), controls_of(control_model)
            if recording is None:
                recorded = record_inputs(bundle, names, reference, steps, max_samples, progress, changes, controls)
            else:
                recorded = limited(load_recording(recording), max_samples)
            report = check_bundle_gpu(bundle, recorded, chosen, timeout, threshold_db, names, progress)
    Output(json_output).data(report.to_json(), _table(report))
    if report.exit_code:
        _explain(report)
        raise typer.Exit(report.exit_code)


def _opened(path: Path, components: str | None) -> tuple[Bundle, tuple[str, ...]]:
    """Returns the bundle and the names of the components to check."""
    from sdmobile.errors import UnsupportedError
    from sdmobile.formats.bundle.reading import open_bundle

    bundle = open_bundle(path)
    if bundle.target != "android":
        raise UnsupportedError("gpu-check takes bundles for Android", f"{path} is for {bundle.target}")
    names = tuple(bundle.components)
    if components is not None:
        names = tuple(name.strip() for name in components.split(","))
        if unknown := [name for name in names if name not in bundle.components]:
            rule = f"--components names components of the bundle, which has {', '.join(bundle.components)}"
            raise UnsupportedError(rule, ", ".join(unknown), nearest(unknown[0], bundle.components))
    return bundle, names


def _table(report: GpuReport) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for heading in ("file", "way", "precision", "verdict", "against", "PSNR dB", "first s", "later s"):
        table.add_column(heading, justify="right" if heading in ("PSNR dB", "first s", "later s") else "left")
    for check in report.checks:
        verdict = check.verdict
        figure = "" if verdict.worst is None else f"{verdict.worst.psnr_db:.1f}"
        times = [f"{verdict.seconds[key]:.2f}" if key in verdict.seconds else "" for key in ("first", "later")]
        against = check.reference if figure else ""
        table.add_row(check.component, verdict.way, verdict.precision, verdict.status, against, figure, *times)
    return table


def _explain(report: GpuReport) -> None:
    """Prints a line to stderr for each check that is not accepted."""
    for check in report.checks:
        verdict = check.verdict
        if verdict.passed:
            continue
        modules = ", ".join(module for operator in verdict.refused for module in operator.modules)
        where = f" [{modules}]" if modules else ""
        name = f"{check.component} ({verdict.way}, {verdict.precision})"
        tell = output.failure if verdict.failed else output.warning
        tell(f"{name}: {verdict.status}: {verdict.reason}{where}")
