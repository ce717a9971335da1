"""The `sdmobile` command: registers the subcommands and turns errors into one line and an exit code."""

from __future__ import annotations

import contextlib
import sys
from typing import IO, Annotated

import typer

from sdmobile import __version__
from sdmobile.basics.stopping import exit_code, heed_signals, stopped_by
from sdmobile.cli import chatter, output
from sdmobile.cli.arguments import Debug, Quiet, SharedOptions
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
from sdmobile.cli.serve import serve
from sdmobile.cli.structures import structures_app
from sdmobile.cli.train import train_app
from sdmobile.cli.usage import told_usage
from sdmobile.cli.validate import validate
from sdmobile.errors import EXIT_INTERRUPTED, EXIT_RESOURCES, EXIT_UNEXPECTED, ResourceError, SdmobileError

_MORE_MEMORY = "Close other programs, or ask for less: a smaller --resolution, fewer --components"
_INTERRUPTED = "interrupted; nothing was left half-written"

app = typer.Typer(
    name="sdmobile",
    help="Put a diffusion model on iPhones and Android phones, with the evidence gathered on this machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Typer's boxes cost more time than all else that --help does
    cls=SharedOptions,
)
app.command()(inspect)
app.command()(export)
app.command()(validate)
app.command()(lint)
app.command("gpu-check")(gpu_check)
app.command()(serve)
app.command()(generate)
app.command()(profile)
app.command()(push)
app.add_typer(devices_app, name="devices")
app.add_typer(quantize_app, name="quantize")
app.add_typer(rewrites_app, name="rewrites")
app.add_typer(structures_app, name="structures")
app.add_typer(train_app, name="train")
app.command()(doctor)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sdmobile {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Debug = False,
    quiet: Quiet = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def run(arguments: list[str] | None = None, log: IO[bytes] | None = None) -> int:
    """Runs the command line and returns the exit code; errors are one line on stderr.

    Args:
        arguments: the command line without the program's name; None for that of the process.
        log: what libraries print, where that is kept aside.
    """
    output.be_quiet(False)
    output.show_all(False)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # of a test, or closed
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        result = app(arguments, prog_name="sdmobile", standalone_mode=False)
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
        if isinstance(error, ModuleNotFoundError) and (missing := _missing(error)) is not None:
            _explain(missing)
            return missing.exit_code
        if (code := told_usage(error, sys.argv[1:] if arguments is None else arguments)) is not None:
            return code
        from sdmobile.basics.memory import is_out_of_memory

        if is_out_of_memory(error):
            _explain(
                ResourceError("the command needs more memory than it can have", type(error).__name__, _MORE_MEMORY)
            )
            return EXIT_RESOURCES
        if output.shows_all():
            raise
        output.failure(f"error: {type(error).__name__}: {error}")
        if last := chatter.tail(log):
            output.remark(f"What libraries printed last:\n{last}")
        output.remark("This is a fault of sdmobile: run again with `sdmobile --debug …` for the traceback.")
        return EXIT_UNEXPECTED


def _missing(error: ModuleNotFoundError) -> SdmobileError | None:
    from sdmobile.basics.libraries import missing_library

    return missing_library(error)


def _stopped() -> int:
    """Says that a signal ended the command and returns 128 + its number; there may be no terminal to say it to."""
    with contextlib.suppress(OSError):
        typer.echo(_INTERRUPTED, file=output.own_stderr())
    return exit_code()


def _explain(error: SdmobileError) -> None:
    if output.shows_all():
        import traceback

        traceback.print_exception(error, file=output.own_stderr())
    output.failure(f"error: {error.message()}")


def main() -> None:
    """Entry point of the `sdmobile` program."""
    heed_signals()
    chatter.listen_to_ourselves()
    if "--debug" in sys.argv:  # before anything is parsed: what is imported for that may print, too
        sys.exit(run())
    with chatter.put_aside() as log:
        code = run(log=log)
    sys.exit(code)


if __name__ == "__main__":
    main()
