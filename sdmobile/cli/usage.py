"""Wrong usage that Typer finds, told with the name that was meant."""

from __future__ import annotations

from typing import Any

from sdmobile.basics.words import nearest
from sdmobile.cli import output


def told_usage(error: Exception, arguments: list[str]) -> int | None:
    """Prints one of Typer's errors about a command line and returns its exit code; None for any other error."""
    show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
    if show is None or code is None:
        return None
    _add_meant(error, arguments)
    show(file=output.own_stderr())
    return int(code)


def _add_meant(error: Any, arguments: list[str]) -> None:
    """Adds the nearest name to the message about an unknown option, or about a value that is none of the choices."""
    if (option := getattr(error, "option_name", None)) is not None and hasattr(error, "possibilities"):
        error.possibilities = None  # Typer would list them by alphabet
        known = [name for param in error.ctx.command.params for name in (*param.opts, *param.secondary_opts)]
        # Typer reads -target as -t -a -r …
        written = [f"-{word}" for word in arguments if len(option) == 2 < len(word) and word.startswith(option)]
        word = (written or [option])[0]
        meant = f"Did you mean {word}?" if word in known else nearest(word, known)
    else:
        descriptor = getattr(getattr(error, "param", None), "type_descriptor", None)
        choices = [str(getattr(choice, "value", choice)) for choice in getattr(descriptor, "choices", None) or ()]
        meant = nearest(error.message.split("'")[1], choices) if choices and "'" in error.message else None
        error.message = error.message.removeprefix("Value error, ")  # pydantic's
    if meant:
        error.message = f"{error.message.rstrip('.')}. {meant}"
