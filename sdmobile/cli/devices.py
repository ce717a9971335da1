"""`sdmobile devices`: the known devices, their facts with sources, profiles and measurements of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdmobile.cli.arguments import CommandGroup
from sdmobile.cli.output import Output, remark
from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.prediction.assess_device import ChosenUnit
    from sdmobile.prediction.measurements import Row
    from sdmobile.prediction.measurements_fit import Refit

devices_app = typer.Typer(
    name="devices",
    help="Device profiles: what is known of each phone, and where from.",
    cls=CommandGroup,
    no_args_is_help=True,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]
Device = Annotated[str, typer.Argument(help="A name of `devices list`, or FILE.toml.", show_default=False)]
Unit = Annotated[str | None, typer.Option(help="Compute unit; without it, the device's first.")]
_FROM = (
    "JSON: a run that `serve` or its page wrote, what `profile --measure --json` printed, or "
    '{"rows": [{"component", "seconds", "place", "runtime"}, …]}.'
)
_RUNTIME = "What ran it, without --from: 'adb gpu', 'LiteRT-CLI gpu', 'Xcode neural-engine', … or words of your own."


@devices_app.command("list")
def list_devices(json: Json = False) -> None:
    """List the devices, their compute units, and how much is known of them."""
    from sdmobile.cli.devices_view import listed
    from sdmobile.device_profiles import list_profiles, load_profile
    from sdmobile.prediction.assess_device import predictable
    from sdmobile.prediction.compare import facts

    rows: list[dict[str, Any]] = []
    for name in list_profiles():
        profile = load_profile(name)
        known = [fact.value is not None for fact in facts(profile).values()]
        rows.append(
            {
                "name": name,
                "title": profile.title,
                "chip": profile.chip,
                "target": profile.target,
                "units": list(profile.units),
                "predictable": list(predictable(profile)),
                "known": sum(known),
                "unknown": len(known) - sum(known),
            }
        )
    Output(json).data(rows, *([] if json else [listed(rows)]))


@devices_app.command()
def show(
    device: Device,
    toml: Annotated[bool, typer.Option("--toml", help="Print the file, to start one of your own.")] = False,
    json: Json = False,
) -> None:
    """Show every fact of a device with its source and how far it can be trusted."""
    from sdmobile.cli.devices_view import fact_tables
    from sdmobile.device_profiles import load_profile, profile_path
    from sdmobile.prediction.compare import facts

    profile = load_profile(device)
    if toml:
        typer.echo(profile_path(device).read_text("utf-8"), nl=False)
        return
    known = facts(profile)
    data = {
        "name": profile.name,
        "title": profile.title,
        "chip": profile.chip,
        "target": profile.target,
        "units": {name: unit.runtime for name, unit in profile.units.items()},
        "facts": {name: fact.model_dump() for name, fact in known.items()},
    }
    Output(json).data(data, *([] if json else fact_tables(profile, known)))


@devices_app.command()
def compare(
    left: Device,
    right: Device,
    everything: Annotated[bool, typer.Option("--all", help="Show equal facts, too.")] = False,
    json: Json = False,
) -> None:
    """Show two devices side by side, fact by fact."""
    from sdmobile.cli.devices_view import side_by_side
    from sdmobile.device_profiles import load_profile
    from sdmobile.prediction.compare import differences

    profiles = load_profile(left), load_profile(right)
    rows = [row for row in differences(*profiles) if everything or not row.equal]
    data = {"left": profiles[0].name, "right": profiles[1].name, "facts": [row.to_json() for row in rows]}
    Output(json).data(data, *([] if json else [side_by_side(*profiles, rows)]))


@devices_app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A profile of your own, FILE.toml.", show_default=False)],
    json: Json = False,
) -> None:
    """Check a profile of your own: every broken rule, with the value found and what to do.

    The exit code is 0 if the profile can be used and 4 if not.
    """
    from sdmobile.device_profiles.profile_file import Problem, ProfileError, read_profile, remarks
    from sdmobile.rewrites.registry import wrong_forms

    try:
        profile = read_profile(file)
        if wrong := wrong_forms(profile):
            rows = [Problem(place, e.rule, str(e.value), "Name one of them.") for place, e in wrong.items()]
            raise ProfileError("the forms must be known ones", file, problems=rows)
    except ProfileError as error:
        if not error.problems:
            raise
        problems = [vars(problem) for problem in error.problems]
        lines = "\n".join(f"{file}: {problem.line}" for problem in error.problems)
        _told(json, {"file": str(file), "valid": False, "problems": problems, "remarks": []}, lines)
        raise typer.Exit(error.exit_code) from error
    hints = remarks(profile)
    text = "\n".join([f"{file}: {profile.title} is a valid profile", *(f"remark: {line}" for line in hints)])
    _told(json, {"file": str(file), "valid": True, "problems": [], "remarks": list(hints)}, text)


def _told(json: bool, data: dict[str, Any], text: str) -> None:
    """Prints JSON, or text whose lines are not wrapped."""
    if json:
        Output(json).data(data)
    else:
        typer.echo(text)


@devices_app.command("add-measurement")
def add_measurement(
    bundle: Annotated[Path, typer.Argument(help="The bundle whose files were measured.", show_default=False)],
    file: Annotated[Path | None, typer.Option("--from", help=_FROM)] = None,
    component: Annotated[str | None, typer.Option(help="What was measured, without --from.")] = None,
    milliseconds: Annotated[float | None, typer.Option(help="Of one call, without --from.")] = None,
    place: Annotated[str, typer.Option(help="What it was measured on, in your words.")] = "",
    runtime: Annotated[str, typer.Option(help=_RUNTIME, show_default=False)] = "",
    device: Annotated[str | None, typer.Option(help="Name or FILE.toml; without it, the bundle's device.")] = None,
    unit: Unit = None,
    json: Json = False,
) -> None:
    """Keep measured times in your data folder, for `devices fit`."""
    from sdmobile.formats.bundle.reading import open_bundle
    from sdmobile.prediction.measurements import belongs, measurement, store

    opened = open_bundle(bundle)
    if file is None:
        chosen = _unit_for(opened, device, unit)
        rows: tuple[Row, ...] = (_one_row(component, milliseconds, place, runtime),)
    else:
        chosen, rows = _rows_for(opened, file, device, unit)
    fitting = [row for row in rows if belongs(row.runtime, chosen)]
    for row in rows:
        if row not in fitting:
            remark(f"left out: {row.component} by {row.runtime} says nothing about {_name(chosen)}")
    if not fitting:
        raise UnsupportedError("a measurement must be of the unit", _name(chosen), "Name another --unit or --device")
    measured = [measurement(opened, chosen, r.component, r.seconds, r.place, r.runtime, r.origin) for r in fitting]
    paths = [store(row) for row in measured]
    data = [{**row.to_json(), "file": str(path)} for row, path in zip(measured, paths, strict=True)]
    if json:
        Output(json).data(data)
    else:
        typer.echo("\n".join(str(path) for path in paths))


def _name(unit: ChosenUnit) -> str:
    return f"{unit.profile.name}, {unit.name} ({unit.unit.runtime})"


def _unit_for(bundle: Bundle, device: str | None, unit: str | None) -> ChosenUnit:
    """Returns the unit that was measured; one that nobody has measured before will do."""
    from sdmobile.device_profiles import default_profile
    from sdmobile.prediction.assess_device import choose_unit

    chosen = choose_unit(device or bundle.device or default_profile(bundle.target), unit, to_fit=True)
    chosen.require(bundle.target)
    return chosen


def _rows_for(bundle: Bundle, file: Path, device: str | None, unit: str | None) -> tuple[ChosenUnit, tuple[Row, ...]]:
    """Returns the unit that a file's times are of, and the times."""
    from sdmobile.device_profiles import default_profile
    from sdmobile.prediction.measurements import read_document, rows_of
    from sdmobile.prediction.phone_run import is_run, read_run
    from sdmobile.prediction.phone_run_rows import rows_of_run, unit_of_run

    document = read_document(file)
    if not is_run(document):
        return _unit_for(bundle, device, unit), rows_of(document, file)
    run = read_run(file)
    rows = rows_of_run(run, bundle, f"{file.name}: run {run.job}, {run.started}, {run.user_agent}")
    return unit_of_run(run, device or bundle.device or default_profile(bundle.target), unit), rows


def _one_row(component: str | None, milliseconds: float | None, place: str, runtime: str) -> Row:
    from sdmobile.prediction.measurements import Row, check_row

    if component is None or milliseconds is None or not place:
        raise typer.BadParameter("give --component, --milliseconds, --place and --runtime, or --from FILE.json")
    row = Row(component, 1e-3 * milliseconds, place, runtime)
    check_row(row)
    return row


@devices_app.command()
def merge(
    folder: Annotated[
        Path, typer.Argument(help="Runs (.json) and stored measurements (.json.gz).", show_default=False)
    ],
    bundle: Annotated[list[Path] | None, typer.Option(help="A bundle that runs are of; repeatable.")] = None,
    device: Annotated[str | None, typer.Option(help="Name or FILE.toml; without it, what each run names.")] = None,
    json: Json = False,
) -> None:
    """Keep the measurements of many people in your data folder, each with its origin."""
    from sdmobile.cli.devices_view import stored_table
    from sdmobile.formats.bundle.reading import open_bundle
    from sdmobile.prediction.measurements import store
    from sdmobile.prediction.measurements_merge import merge as merged_folder

    merged = merged_folder(folder, [open_bundle(path) for path in bundle or ()], device)
    for line in merged.left_out:
        remark(f"left out: {line}")
    if not merged.measurements:
        raise UnsupportedError("a folder of results has one that can be kept", folder, "See what was left out, and why")
    data = [{**one.to_json(), "file": str(store(one))} for one in merged.measurements]
    Output(json).data(data, *([] if json else [stored_table(merged.measurements)]))


@devices_app.command()
def measurements(device: Device, json: Json = False) -> None:
    """List the measurements of a device that you stored."""
    from sdmobile.cli.devices_view import stored_table
    from sdmobile.device_profiles import load_profile
    from sdmobile.prediction.measurements import load

    stored = load(load_profile(device).name)
    Output(json).data([row.to_json() for row in stored], *([] if json else [stored_table(stored)]))


@devices_app.command()
def fit(
    device: Device,
    output: Annotated[Path, typer.Option("--output", "-o", help="New profile, FILE.toml.", show_default=False)],
    unit: Unit = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    json: Json = False,
) -> None:
    """Fit a unit's parameters to your stored measurements and write a new profile; the old one stays as it is."""
    from sdmobile.cli.devices_view import refit_table
    from sdmobile.device_profiles import profile_path
    from sdmobile.prediction.assess_device import choose_unit
    from sdmobile.prediction.measurements import load
    from sdmobile.prediction.measurements_fit import refit, write_refitted

    chosen = choose_unit(device, unit, to_fit=True)
    result = refit(chosen, load(chosen.profile.name))
    write_refitted(profile_path(device), chosen.name, result, output, overwrite)
    remark(f"wrote {output}; use it with --device {output}")
    Output(json).data(_refit_json(result), *([] if json else [refit_table(result)]))


def _refit_json(result: Refit) -> dict[str, Any]:
    return {
        "values": dict(result.values),
        "rows": [
            {
                "component": row.component,
                "place": row.place,
                "measured_seconds": row.seconds,
                "predicted_before_seconds": float(before),
                "predicted_after_seconds": float(after),
                "predicted_left_out_seconds": None if result.left_out is None else float(result.left_out[i]),
            }
            for i, (row, before, after) in enumerate(zip(result.measurements, result.before, result.after, strict=True))
        ],
        "quality_left_out": None if result.quality is None else vars(result.quality),
    }
