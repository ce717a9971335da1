"""`sdmobile profile`: what a bundle costs on a phone, predicted; and what it costs here, measured."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdmobile.cli.arguments import Steps, path
from sdmobile.cli.output import Output, warning
from sdmobile.errors import OutputError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.prediction.assess import Assessment
    from sdmobile.prediction.assess_device import ChosenUnit
    from sdmobile.validate.measure import Measurements

_BUNDLE = "A bundle, or a checkpoint, which is then exported for the device (from the cache where possible)."
_DEVICE = "A name of `sdmobile devices list`, or a profile of your own: FILE.toml; without it, the bundle's device."
_GUIDANCE = "batch2 (or batch3), separate (one call per row) or none; without it, as the bundle was exported."
_TRACE = "Write the predicted timeline for Perfetto (ui.perfetto.dev) or Chrome."
_PLOT = "Draw the kernels against the unit's roofline, as FILE.svg."
_MEASURE = "Run the files too: on this machine, and with --benchmark-model on the phone that adb finds."
_BENCHMARK = "LiteRT's benchmark_model for Android."


def profile(
    bundle: Annotated[
        Path | None, typer.Argument(parser=path, help=_BUNDLE + " Without it, the bundled shapes-64.")
    ] = None,
    device: Annotated[str | None, typer.Option(help=_DEVICE)] = None,
    unit: Annotated[str | None, typer.Option(help="Compute unit; without it, the device's first.")] = None,
    steps: Steps = None,
    guidance: Annotated[str | None, typer.Option(help=_GUIDANCE)] = None,
    top: Annotated[int, typer.Option(min=0, help="How many of the costliest kernels to show.")] = 15,
    trace: Annotated[Path | None, typer.Option(help=_TRACE)] = None,
    plot: Annotated[Path | None, typer.Option(help=_PLOT)] = None,
    measure: Annotated[bool, typer.Option("--measure", help=_MEASURE)] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of a component; --measure.")] = 10,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the runtime; --measure.")] = None,
    benchmark_model: Annotated[Path | None, typer.Option(help=_BENCHMARK)] = None,
    adb_serial: Annotated[str | None, typer.Option(help="Which phone, if several are connected.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")] = False,
) -> None:
    """Predict what a bundle costs on a phone: time, memory, size, and what costs most.

    Every number is predicted from the files by the model of docs/latency-model.md, but those of --measure, which are
    kept apart.
    """
    from sdmobile.cli.profile_view import measured_views, predicted_views
    from sdmobile.prediction.assess import assess

    _check_outputs(trace, plot)
    out = Output(json)
    with opened(bundle, device, out) as files:
        try:
            result = assess(files, unit_for(files, device, unit), steps, guidance)
        except UnsupportedError as error:
            if not measure:
                raise
            result = None  # files without a model, such as ONNX, can be run all the same
            warning(f"no prediction: {error.message()}")
        measured = _measured(files, repeats, threads, benchmark_model, adb_serial) if measure else None
    data: dict[str, Any] = {"prediction": None if result is None else result.to_json(top)}
    views = [] if json or result is None else predicted_views(result, top)
    if result is not None:
        _write(result, trace, plot, out)
    if measured is not None:
        data["measurement"] = measured.to_json()
        views += [] if json else measured_views(measured)
    out.data(data, *views)


def _check_outputs(trace: Path | None, plot: Path | None) -> None:
    """Refuses, before anything is read, outputs that cannot be written."""
    for name, file in (("--trace", trace), ("--plot", plot)):
        if file is not None and not file.absolute().parent.is_dir():
            raise OutputError(f"the folder of {name} must exist", file.absolute().parent)
    if plot is not None and plot.suffix != ".svg":
        raise UnsupportedError("the plot is an SVG file", plot, "Name it FILE.svg; any browser shows it")


@contextmanager
def opened(path: Path | None, device: str | None, out: Output) -> Iterator[Bundle]:
    """Yields a bundle; a checkpoint is exported for the device into a folder that is removed again.

    Args:
        path: a bundle or a checkpoint; None for the checkpoint that sdmobile ships.
        device: name or file; None for the bundle's own, or for the Galaxy S23 Ultra.
        out: for remarks.
    """
    from sdmobile.basics.scratch import temporary_folder
    from sdmobile.formats.bundle.reading import is_bundle, open_bundle

    if path is not None and is_bundle(path):
        yield open_bundle(path, verify=False)
        return
    _require_checkpoint(path)
    with temporary_folder("profile") as folder:
        yield open_bundle(_exported(path, device, folder / "bundle", out), verify=False)


def _require_checkpoint(path: Path | None) -> None:
    """Refuses a path that is neither a bundle nor anything that could be a checkpoint."""
    from sdmobile.checkpoints import HubName, bundled_path

    if path is None:
        return
    path = bundled_path(path)
    if not path.exists() and HubName.parse(path):
        return
    looks = path.suffix in (".safetensors", ".ckpt") or (path / "model_index.json").is_file()
    if not path.exists() or not looks:
        problem = "no such file or folder" if not path.exists() else "neither manifest.json nor model_index.json"
        raise UnsupportedError(
            "the path must be a bundle that `sdmobile export` wrote, or a checkpoint",
            f"{path}: {problem}" if not path.is_file() else path,
            "Give the bundle's folder, a Diffusers folder, or a .safetensors or .ckpt file",
        )


def _exported(checkpoint: Path | None, device: str | None, folder: Path, out: Output) -> Path:
    """Exports a checkpoint by the usual path, with the usual cache."""
    from sdmobile.cli.progress import StageView
    from sdmobile.device_profiles import default_profile
    from sdmobile.exporters.bundle import export_bundle
    from sdmobile.exporters.cache import ComponentCache, default_cache_dir
    from sdmobile.exporters.request import ExportRequest, make_plan
    from sdmobile.prediction.assess_device import choose_unit, runs

    chosen = choose_unit(device or default_profile("android"))
    target = runs(chosen.unit)
    # A unit of a device that is made for another target, such as a computer's CPU, runs the target's usual files.
    plan = make_plan(ExportRequest(checkpoint, target, folder, device if chosen.profile.target == target else None))
    out.note(f"exporting {plan.checkpoint.name} for {plan.device} first; finished components come from the cache")
    with StageView() as view:
        return export_bundle(plan, ComponentCache(default_cache_dir()), view.event).path


def unit_for(bundle: Bundle, device: str | None, unit: str | None) -> ChosenUnit:
    """Returns the unit that is asked for; without a device, one of the bundle's own.

    Raises:
        UnsupportedError: no such device or unit, or its runtime does not run the bundle's files.
    """
    from sdmobile.device_profiles import default_profile
    from sdmobile.prediction.assess_device import choose_unit

    chosen = choose_unit(device or bundle.device or default_profile(bundle.target), unit)
    chosen.require(bundle.target)
    return chosen


def _write(result: Assessment, trace: Path | None, plot: Path | None, out: Output) -> None:
    import json

    from sdmobile.basics.files import write_whole

    if trace is not None:
        from sdmobile.prediction.trace import chrome_trace

        write_whole(trace, json.dumps(chrome_trace(result)).encode())
        out.note(f"wrote the predicted timeline to {trace}")
    if plot is not None:
        from sdmobile.prediction.plots import roofline_svg

        write_whole(plot, roofline_svg(result).encode())
        out.note(f"wrote the predicted roofline to {plot}")


def _measured(
    bundle: Bundle, repeats: int, threads: int | None, program: Path | None, serial: str | None
) -> Measurements:
    from sdmobile.cli.progress import step_progress
    from sdmobile.validate.measure import MeasureOptions, measure_bundle

    options = MeasureOptions(repeats, threads, program, serial)
    with step_progress() as progress:
        return measure_bundle(bundle, options, lambda what: progress(what, 0, 1))
