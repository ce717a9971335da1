"""`sdmobile serve`: a phone's browser runs a bundle, compares it with PyTorch, times it and draws a picture."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdmobile.cli import output
from sdmobile.cli.arguments import ControlModel, Embedding, Lora, Vae, changes_of, controls_of, path

if TYPE_CHECKING:
    from sdmobile.validate.serve.session import Network, Prepared

_LAN = "Serve the local network by TLS; without it, this computer alone and a phone on a cable (adb)."
_CERT = "Certificate of your own for --lan, PEM; without it, one is made, which the phone will warn of."
_FOR = "Minutes after which it ends by itself."
_EXTERNAL = (
    "Serve the weights in files of their own even where the bundle fits without, and let Chrome 137 or newer use them; "
    "they take less of the browser's memory."
)
_STATIC = "Write page, bundle and job into a new folder for any https host, and serve nothing."
_RESULTS = "Folder for what comes back; without it, phone-runs in the user's data folder."
_QR = "Print the address as a code for the phone's camera; without it, in a terminal only."
_PROMPT = "What to draw; another one than the bundle's recorded one is drawn by PyTorch first, to compare with."


class Precision(str, Enum):
    """Of the GPU's arithmetic."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


def serve(
    bundle: Annotated[Path, typer.Argument(help="Bundle for Android.", show_default=False)],
    lan: Annotated[bool, typer.Option("--lan", help=_LAN)] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for a free one.")] = 8765,
    cert: Annotated[Path | None, typer.Option(help=_CERT)] = None,
    key: Annotated[Path | None, typer.Option(help="Private key of --cert, PEM, without a password.")] = None,
    minutes: Annotated[float, typer.Option("--for", min=0, max=10080, help=_FOR, metavar="MINUTES")] = 60.0,
    once: Annotated[bool, typer.Option("--once", help="End after the first result.")] = False,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help=_PROMPT)] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Seed of the picture's noise.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Scheduler steps of the picture.")] = None,
    runs: Annotated[int, typer.Option(min=1, max=1000, help="Timed runs of each component, all compared.")] = 5,
    precision: Annotated[Precision, typer.Option(help="What the phone's GPU computes in.")] = Precision.FLOAT32,
    components: Annotated[str | None, typer.Option(help="Run only these, separated by commas.")] = None,
    external: Annotated[bool, typer.Option("--external", help=_EXTERNAL)] = False,
    results: Annotated[Path | None, typer.Option(help=_RESULTS)] = None,
    static: Annotated[Path | None, typer.Option(help=_STATIC)] = None,
    qr: Annotated[bool, typer.Option("--qr", help=_QR)] = False,
    reference: Annotated[
        Path | None,
        typer.Option(parser=path, help="Checkpoint the bundle was exported from; without it, the one sdmobile ships."),
    ] = None,
    lora: Lora = None,
    embedding: Embedding = None,
    vae: Vae = None,
    control_model: ControlModel = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print what came back as JSON, at the end.")] = False,
) -> None:
    """Run a bundle in a phone's browser: open the printed address there, no app is needed.

    Every component is compared with float32 PyTorch and timed on the phone's own GPU, a picture is drawn, and the
    results come back. The exit code is 0 if the last result passed, 3 if it failed, 8 if none came.
    """
    from sdmobile.basics.scratch import temporary_folder
    from sdmobile.cli.progress import step_progress
    from sdmobile.validate.golden_recording import PictureOrder
    from sdmobile.validate.serve.job import JobOptions
    from sdmobile.validate.serve.session import Network, Source, prepare
    from sdmobile.validate.serve.static import check_folder

    network = Network(lan, port, cert, key)
    if static is not None:
        check_folder(static)
    names = None if components is None else tuple(name.strip() for name in components.split(","))
    options = JobOptions(names, runs, precision.value, external)
    source = Source(reference, changes_of(lora, embedding, vae), controls_of(control_model))
    order = PictureOrder(prompt, seed, steps)
    with temporary_folder("serve") as folder:
        with step_progress() as progress:
            mode = "served" if static is None else "static"
            prepared = prepare(bundle, options, order, source, mode, tell, progress, folder)
        for line in prepared.lines:
            tell(line)
        if static is not None:
            _write(prepared, static, json_output)
        else:
            _serve(prepared, network, results, minutes, once, qr, json_output, "?external=1" if external else "")


def tell(text: str) -> None:
    """Prints a line about what happens; warnings under --quiet, too."""
    (output.warning if text.startswith("warning: ") else output.remark)(text)


def _write(prepared: Prepared, folder: Path, json_output: bool) -> None:
    from sdmobile.validate.serve.static import write_static

    write_static(folder, prepared.routes)
    document = {"folder": str(folder), "job": prepared.job["id"], "files": len(prepared.routes)}
    output.Output(json_output).data(document, str(folder))
    tell("Any https host will do; the page there offers its results as a file.")


def _serve(
    prepared: Prepared,
    network: Network,
    results: Path | None,
    minutes: float,
    once: bool,
    qr: bool,
    json_output: bool,
    query: str,
) -> None:
    from sdmobile.validate.serve.session import phone_session, wait_for_phone

    with phone_session(prepared, network, results, tell) as session:
        _announce(session.address + query, qr, json_output)
        tell(f"waiting for a phone; ends in {minutes:g} minutes, or with Ctrl-C")
        wait_for_phone(session, minutes, once)
    output.Output(json_output).data(session.to_json(prepared.job))
    if not session.inbox.receipts:
        output.failure(f"error: no result came: {session.reason}")
    if (words := session.last_words) is not None:
        output.warning(f"warning: {words}")
    if session.exit_code:
        raise typer.Exit(session.exit_code)


def _announce(address: str, qr: bool, json_output: bool) -> None:
    """Prints the address, to stdout unless JSON goes there, and its code."""
    typer.echo(f"open on the phone: {address}", file=output.own_stderr() if json_output else None)
    stream = output.own_stderr()
    if not qr and not stream.isatty():
        return
    from sdmobile.basics.libraries import missing_library
    from sdmobile.validate.serve.address import terminal_code

    try:
        typer.echo(terminal_code(address), file=stream)
    except ModuleNotFoundError as error:
        if qr or (missing := missing_library(error)) is None:
            raise
        tell(f"note: no code for the camera: {missing.message()}")
