"""The one place where commands print: data to stdout, everything else to stderr.

What a command itself says goes to `own_stderr()`, which is the terminal also while `cli.chatter` keeps what libraries
print to stderr aside.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_MINIMUM_WIDTH = 100  # where the output is a pipe, tables shall not be squeezed into 80 columns


@dataclass
class _State:
    """How this process prints: the stream of its own words, None for stderr as it is; how little, and how much."""

    stream: TextIO | None = None
    quiet: bool = False
    all: bool = False


_state = _State()


def use_stream(stream: TextIO | None) -> None:
    """Lets everything but data be printed to a stream; None for stderr."""
    _state.stream = stream


def be_quiet(quiet: bool) -> None:
    """Leaves out, or prints again, all but results, warnings and errors."""
    _state.quiet = quiet


def is_quiet() -> bool:
    """Whether only results, warnings and errors are printed."""
    return _state.quiet


def show_all(shown: bool) -> None:
    """Prints tracebacks of errors, or leaves them out."""
    _state.all = shown


def shows_all() -> bool:
    """Whether tracebacks of errors are printed."""
    return _state.all


def own_stderr() -> TextIO:
    """Returns the stream that everything but data is printed to."""
    return _state.stream or sys.stderr


def remark(text: str) -> None:
    """Prints what a command did or found beside its result; nothing under --quiet."""
    if not _state.quiet:
        typer.echo(text, file=own_stderr())


def warning(text: str) -> None:
    """Prints what a person has to know."""
    typer.secho(text, fg=typer.colors.YELLOW, file=own_stderr())


def failure(text: str) -> None:
    """Prints what went wrong."""
    typer.secho(text, fg=typer.colors.RED, file=own_stderr())


def stderr_console() -> Console:
    """Returns a console for everything but data."""
    return _console(own_stderr())


def _console(stream: TextIO | None) -> Console:
    from rich.console import Console

    console = Console(file=stream, highlight=False, soft_wrap=False)
    if not console.is_terminal and console.width < _MINIMUM_WIDTH:
        console = Console(file=stream, highlight=False, width=_MINIMUM_WIDTH)
    return console


@dataclass(frozen=True)
class Output:
    """A sink for one command.

    Args:
        json: print data as one JSON document, and nothing meant for people on stdout.
    """

    json: bool = False

    def data(self, value: Any, *views: RenderableType) -> None:
        """Prints the result of a command.

        Args:
            value: what `--json` prints; anything that JSON knows, paths as strings.
            views: what people see instead.
        """
        if self.json:
            print(json.dumps(value, indent=2, ensure_ascii=False, default=str))
            return
        console = _console(None)
        for view in views:
            console.print(view)

    def note(self, message: RenderableType) -> None:
        """Prints a remark to stderr; nothing under --quiet."""
        if not _state.quiet:
            stderr_console().print(message)
