"""Read a JSON configuration with one clear message for whatever may be wrong with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sdmobile.checkpoints.headers import check_readable
from sdmobile.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


MOST_BYTES = 64_000_000
"""Of a configuration, an index of shards or a tokenizer; the largest in use have a few."""


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Raises:
        CheckpointError: missing, no regular file, too large, empty, an LFS pointer, not JSON, or not an object.
    """
    check_readable(path, MOST_BYTES)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError("a configuration file must be JSON", f"{path}: {error}", "Download it again.") from error
    if not isinstance(value, dict):
        raise CheckpointError("a configuration file must be a JSON object", f"{path}: {type(value).__name__}")
    return value
