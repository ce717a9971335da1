"""The `sdmobile` command: registers the subcommands and turns errors into one line and an exit code."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Annotated

import typer

from sdmobile import __version__
from sdmobile.basics.stopping import exit_code, heed_signals, stopped_by
from sdmobile.cli.arguments import CommandGroup
from sdmobile.cli.devices import devices_app
from sdmobile.cli.doctor import doctor
from sdmobile.cli.export import export
from sdmobile.cli.generate import generate
from sdmobile.cli.gpu import gpu_check
from sdmobile.cli.inspect import inspect
from sdmobile.cli.lint import lint
from sdmobile.cli.profile import profile
from sdmobile.cli.push import push
from sdmobile.cli.quantize import quantize_app
from sdmobile.cli.rewrites import rewrites_app
from sdmobile.cli.train import train_app
from sdmobile.cli.validate import validate
from sdmobile.errors import EXIT_INTERRUPTED, EXIT_RESOURCES, EXIT_UNEXPECTED, ResourceError, SdmobileError

_MORE_MEMORY = "Close other programs, or ask for less: a smaller --resolution, fewer --components"
_INTERRUPTED = "interrupted; nothing was left half-written"

app = typer.Typer(
    name="sdmobile",
    help="Put a diffusion model on iPhones and Android phones, with the evidence gathered on this machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # Typer's boxes cost more time than all else that --help does
    cls=CommandGroup,
)
app.command()(inspect)
app.command()(export)
app.command()(validate)
app.command()(lint)
app.command("gpu-check")(gpu_check)
app.command()(generate)
app.command()(profile)
app.command()(push)
app.add_typer(devices_app, name="devices")
app.add_typer(quantize_app, name="quantize")
app.add_typer(rewrites_app, name="rewrites")
app.add_typer(train_app, name="train")
app.command()(doctor)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sdmobile {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if debug:
        os.environ["SDMOBILE_DEBUG"] = "1"
    else:
        _quiet_libraries()


def _quiet_libraries() -> None:
    """Keeps remarks of imported libraries (missing optional parts, deprecations) off the screen."""
    import warnings

    warnings.filterwarnings("ignore")
    os.environ.setdefault("TORCH_LOGS", "-all")  # read when torch is imported; errors still show
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    for name in ("torch", "torchao", "transformers", "diffusers", "coremltools"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def run(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code; errors are one line on stderr.

    Args:
        arguments: the command line without the program's name; None for that of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # of a test, or closed
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        result = app(arguments, standalone_mode=False)
        code = result if isinstance(result, int) else 0
        return _stopped() if code == EXIT_INTERRUPTED else code  # Typer's answer to Ctrl-C within a command
    except SdmobileError as error:
        _explain(error)
        return error.exit_code
    except OSError as error:
        if stopped_by() is not None:  # the terminal that Typer wanted to write to has gone
            return _stopped()
        from sdmobile.basics.files import explained

        told = explained(error)
        _explain(told)
        return told.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _stopped()
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if code is not None and hasattr(error, "show"):
            error.show()  # pyright: ignore[reportAttributeAccessIssue]
            return int(code)
        from sdmobile.basics.memory import is_out_of_memory

        if is_out_of_memory(error):
            _explain(
                ResourceError("the command needs more memory than it can have", type(error).__name__, _MORE_MEMORY)
            )
            return EXIT_RESOURCES
        if os.environ.get("SDMOBILE_DEBUG"):
            raise
        typer.secho(f"error: {type(error).__name__}: {error}", fg="red", err=True)
        typer.echo("This is a fault of sdmobile: run again with `sdmobile --debug …` for the traceback.", err=True)
        return EXIT_UNEXPECTED


def _stopped() -> int:
    """Says that a signal ended the command and returns 128 + its number; there may be no terminal to say it to."""
    with contextlib.suppress(OSError):
        typer.secho(_INTERRUPTED, err=True)
    return exit_code()


def _explain(error: SdmobileError) -> None:
    if os.environ.get("SDMOBILE_DEBUG"):
        import traceback

        traceback.print_exception(error)
    typer.secho(f"error: {error.message()}", fg="red", err=True)


def main() -> None:
    """Entry point of the `sdmobile` program."""
    heed_signals()
    sys.exit(run())


if __name__ == "__main__":
    main()
