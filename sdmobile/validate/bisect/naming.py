"""Reads from the names in a file which module of the checkpoint a value comes from."""

from __future__ import annotations

import re
from collections.abc import Sequence


class ModuleNames:
    """The modules of a component by the identifiers that exported files use.

    Args:
        paths: of the modules, such as "down_blocks.0.resnets.0.norm1".
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = set(paths)
        self._by_identifier = {re.sub(r"\W+", "_", path): path for path in paths}

    def of_identifier(self, name: str) -> str | None:
        """Returns the module of a Core ML name: its longest beginning that is a module's path with underscores."""
        words = re.sub(r"^(?:p_)?(?:component_)?", "", name).split("_")
        for count in range(len(words), 0, -1):
            path = self._by_identifier.get("_".join(words[:count]))
            if path is not None:
                return path
        return None

    def of_location(self, name: str) -> str | None:
        """Returns the module of a LiteRT tensor: the first of the places that its name lists."""
        path = name.split(";")[0]
        return path if path in self._paths else None
