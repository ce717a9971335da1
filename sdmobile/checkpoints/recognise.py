"""Find out what a path holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sdmobile.basics.words import nearest
from sdmobile.checkpoints.bundled import bundled_checkpoint, bundled_path
from sdmobile.checkpoints.changes import UNCHANGED, Changes, changed
from sdmobile.checkpoints.folder import open_folder
from sdmobile.checkpoints.hub import HubName
from sdmobile.checkpoints.types import Given
from sdmobile.errors import CheckpointError, UsageError
from sdmobile.families.schedulers import PREDICTION_TYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdmobile.checkpoints.control import ControlFolder
    from sdmobile.checkpoints.types import Checkpoint

_SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def open_checkpoint(
    path: Path | None = None,
    tokenizer_dir: Path | None = None,
    prediction_type: str | None = None,
    changes: Changes = UNCHANGED,
    controls: Sequence[ControlFolder] = (),
) -> Checkpoint:
    """Recognises a checkpoint from its headers and configurations; no weights are read.

    Args:
        path: a Diffusers folder, or a single .safetensors or .ckpt file in the original layout;
            without it, the bundled checkpoint. Where there is no such file, the name of a bundled one, or of a
            repository of the Hub (`HubName`), which is downloaded into the Hub's cache.
        tokenizer_dir: folder of the tokenizer, for a checkpoint that has none; remembered for a single file.
        prediction_type: what the denoiser predicts, for a checkpoint that does not say it.
        changes: what is put on top: LoRAs, learned words, another autoencoder, a text encoder cut short; and how it
            was distilled to few steps, if so.
        controls: control networks to go with it, whose outputs are summed.

    Raises:
        CheckpointError: missing, truncated or corrupt; or no repository of the Hub that can be read.
        UnsupportedError: an architecture that sdmobile does not export.
        UsageError: a prediction type that is none, or a folder without a tokenizer.
    """
    if prediction_type not in (None, *PREDICTION_TYPES):
        meant = nearest(prediction_type, PREDICTION_TYPES)
        raise UsageError(f"the prediction type must be one of {', '.join(PREDICTION_TYPES)}", prediction_type, meant)
    if controls:
        from sdmobile.checkpoints.control import with_controls

        return with_controls(open_checkpoint(path, tokenizer_dir, prediction_type, changes), controls)
    given = Given(
        None if tokenizer_dir is None else Path(tokenizer_dir), prediction_type, changes.vae, changes.distilled
    )
    path = _local(bundled_path(Path(path))) if path is not None else bundled_checkpoint()
    return changed(_opened(path, given), changes)


def _local(path: Path) -> Path:
    """Returns a path that exists as it is, and where a repository of the Hub was downloaded to."""
    if path.exists():
        return path
    name = HubName.parse(path)
    if name is None:
        raise CheckpointError(
            "the checkpoint must exist", path, "Give a Diffusers folder, a .safetensors file or a Hub name: owner/name."
        )
    from sdmobile.checkpoints.hub_download import downloaded

    return downloaded(name)


def _opened(path: Path, given: Given) -> Checkpoint:
    if path.is_dir():
        return open_folder(path, given)
    if path.suffix.lower() in _SINGLE_FILES:
        from sdmobile.checkpoints.single_file import open_single_file

        return open_single_file(path, given)
    raise CheckpointError("a checkpoint must be a Diffusers folder or a .safetensors or .ckpt file", path)
