"""The tokenizer of a bundle or checkpoint folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdmobile.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


def tokenizer_from(folder: Path) -> Any:
    """Returns the CLIPTokenizer of a folder with vocab.json and merges.txt.

    Raises:
        CheckpointError: one of the two files is missing.
    """
    missing = [name for name in ("vocab.json", "merges.txt") if not (folder / name).is_file()]
    if missing:
        raise CheckpointError("a tokenizer is a folder with vocab.json and merges.txt", f"{folder} lacks {missing}")
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
