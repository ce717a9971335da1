"""Load the tokenizer of a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdmobile.errors import CheckpointError
from sdmobile.families.clip import TOKENIZER_FILES

if TYPE_CHECKING:
    from pathlib import Path

    from sdmobile.checkpoints.types import Checkpoint


def load_tokenizer(checkpoint: Checkpoint, tokenizer_dir: Path | None = None) -> Any:
    """Loads the CLIPTokenizer of a checkpoint.

    Args:
        checkpoint: the checkpoint.
        tokenizer_dir: folder with `vocab.json` and `merges.txt`, for a checkpoint that has none.

    Returns:
        A transformers CLIPTokenizer.

    Raises:
        CheckpointError: there is no tokenizer, or its files cannot be read.
    """
    folder = tokenizer_dir or checkpoint.tokenizer_dir
    if folder is None:
        raise CheckpointError(
            "a prompt needs the checkpoint's tokenizer",
            f"{checkpoint.path} has none",
            f"Put a folder `tokenizer` with {' and '.join(TOKENIZER_FILES)} next to it.",
        )
    for name in TOKENIZER_FILES:
        if not (folder / name).is_file():
            raise CheckpointError("a tokenizer folder must hold vocab.json and merges.txt", folder / name)
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the Rust tokenizer raises plain Exception
        raise CheckpointError("the tokenizer's files must be well-formed", f"{folder}: {error}") from error
