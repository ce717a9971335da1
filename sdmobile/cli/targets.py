"""Which targets `sdmobile export` writes bundles for, and where each goes."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from sdmobile.cli.output import failure, own_stderr
from sdmobile.formats.bundle.contracts import TARGETS

ALL = "all"
_NAMES = f"{', '.join(TARGETS)}, several of them separated by commas, or {ALL}"
HELP = f"{_NAMES}; without it, a terminal asks."


def complete(incomplete: str) -> list[str]:
    """Returns what a shell offers behind `--target`: names that are not in the list yet."""
    begun, comma, _ = incomplete.rpartition(",")
    given = begun.split(",")
    return [f"{begun}{comma}{name}" for name in (*TARGETS, *(() if comma else (ALL,))) if name not in given]


def chosen_targets(text: str | None) -> tuple[str, ...]:
    """Returns the targets that `--target` names, each once; None asks the person at the terminal.

    Raises:
        UsageError: there is nobody to ask, or nothing is named.
        UnsupportedError: no such target.
    """
    from sdmobile.basics.words import nearest
    from sdmobile.errors import UnsupportedError, UsageError

    if text is None:
        return _asked()
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError(f"--target must say what to export for: {_NAMES}")
    for name in names:
        if name not in (*TARGETS, ALL):
            known = (*TARGETS, ALL)
            raise UnsupportedError(f"the target must be one of {', '.join(known)}", name, nearest(name, known))
    return TARGETS if ALL in names else names


def _asked() -> tuple[str, ...]:
    from sdmobile.errors import UnsupportedError, UsageError

    stderr = own_stderr()
    if sys.stdin is None or not (sys.stdin.isatty() and stderr.isatty()):
        raise UsageError(f"--target must say what to export for: {_NAMES}")
    while True:
        typer.echo(f"Export for {_NAMES}? ", nl=False, file=stderr)
        if not (answer := input().strip()):
            continue
        try:
            return chosen_targets(answer)
        except (UnsupportedError, UsageError) as error:
            failure(error.message())


def places(name: str, targets: tuple[str, ...], output: Path | None) -> tuple[Path, ...]:
    """Returns the folder of each target's bundle.

    Args:
        name: of the checkpoint.
        targets: in the order of the result.
        output: what `--output` says: the bundle of one target, or the folder above the bundles of several.

    Raises:
        OutputError: several bundles should go into a folder that is a bundle itself.
    """
    from sdmobile.errors import OutputError
    from sdmobile.formats.bundle.reading import is_bundle

    if output is None:
        return tuple(Path(f"{name}-{target}") for target in targets)
    if len(targets) == 1:
        return (output,)
    if is_bundle(output):
        raise OutputError("the bundles of several targets go into a folder that is no bundle", output)
    return tuple(output / target for target in targets)
