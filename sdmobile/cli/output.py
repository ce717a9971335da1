"""The one place where commands print: data to stdout, everything else to stderr."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_MINIMUM_WIDTH = 100  # where the output is a pipe, tables shall not be squeezed into 80 columns


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
        console = self._console(stderr=False)
        for view in views:
            console.print(view)

    def note(self, message: RenderableType) -> None:
        """Prints a remark to stderr."""
        self._console(stderr=True).print(message)

    def _console(self, stderr: bool) -> Console:
        from rich.console import Console

        console = Console(stderr=stderr, highlight=False, soft_wrap=False)
        if not console.is_terminal and console.width < _MINIMUM_WIDTH:
            console = Console(stderr=stderr, highlight=False, width=_MINIMUM_WIDTH)
        return console
