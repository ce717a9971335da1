"""The walk of one export: which files of the package are entered, in which order, and how often the room changes.

    python -m benchmarks.walk [--markdown]

It exports the text encoder of shapes-64 for an iPhone with palette6, with the component's stages in this process, and
notes the first call into each file. docs/architecture.md shows the result.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import sdmobile

_ROOT = Path(sdmobile.__file__).parent


@contextmanager
def entered_files() -> Iterator[list[str]]:
    """Yields a list that grows by each file of the package, in the order of the first call of one of its functions."""
    files: list[str] = []
    known: set[str] = set()

    def see(frame: FrameType, event: str, _argument: Any) -> None:
        name = frame.f_code.co_filename
        if event != "call" or name in known:
            return
        if not name.startswith(str(_ROOT)):
            known.add(name)
        elif not _importing(frame):
            known.add(name)
            files.append(Path(name).relative_to(_ROOT).as_posix())

    sys.setprofile(see)
    try:
        yield files
    finally:
        sys.setprofile(None)


def _importing(frame: FrameType | None) -> bool:
    """Returns whether a call is part of the import of a file of the package: class bodies, decorators, tables."""
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_code.co_filename.startswith(str(_ROOT)):
            return True
        frame = frame.f_back
    return False


def export_here(out: Path) -> None:
    """Exports in this process what `sdmobile export` would export with a worker."""
    from sdmobile.cli.app import app
    from sdmobile.exporters import bundle
    from sdmobile.exporters.component import run_stages

    bundle.run_component = lambda job, *_: run_stages(job, lambda *_: None)
    arguments = ["export", "--target", "ios", "--components", "text_encoder", "--quantize", "palette6", "--no-cache"]
    app([*arguments, "--output", str(out)], standalone_mode=False)


def main() -> None:
    """Prints the walk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="as a list for docs/architecture.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, entered_files() as files:
        export_here(Path(folder) / "bundle")
    stations = [(room, [file for _, file in group]) for room, group in groupby(_rooms(files), key=lambda pair: pair[0])]
    for room, names in stations:
        shown = [name.removeprefix(f"{room}/") for name in names]
        print(f"- `{room}` {', '.join(shown)}" if options.markdown else f"{room}: {', '.join(shown)}")
    print(f"{len(files)} files, {len(stations) - 1} changes of room")


def _rooms(files: list[str]) -> list[tuple[str, str]]:
    return [(file.split("/")[0], file) for file in files]


if __name__ == "__main__":
    main()
