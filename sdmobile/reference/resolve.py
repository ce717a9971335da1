"""Find the checkpoint that a bundle must be compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmobile.errors import CheckpointError, SdmobileError

if TYPE_CHECKING:
    from pathlib import Path

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.formats.bundle.reading import Bundle


def resolve_reference(bundle: Bundle, reference: Path | None) -> Checkpoint:
    """Opens the checkpoint that the bundle was exported from.

    Args:
        bundle: the opened bundle.
        reference: a checkpoint, or None to try the one that ships with sdmobile.

    Raises:
        CheckpointError: the checkpoint's content hash is not the one in the manifest, or none was given and the shipped
            one is another.
    """
    from sdmobile.checkpoints import open_checkpoint

    name = bundle.source.get("name", "unknown")
    try:
        checkpoint = open_checkpoint(reference)
    except SdmobileError as error:
        if reference is not None:
            raise
        raise _not_found(str(name), bundle) from error
    if checkpoint.content_hash == bundle.source_hash:
        return checkpoint
    if reference is None:
        raise _not_found(str(name), bundle)
    raise CheckpointError(
        f"the reference must be the checkpoint that the bundle was exported from ({_short(bundle.source_hash)})",
        f"{reference} has the content hash {_short(checkpoint.content_hash)}",
        "Give that checkpoint, or export the bundle again from this one.",
    )


def _not_found(name: str, bundle: Bundle) -> CheckpointError:
    return CheckpointError(
        "parity needs the checkpoint that the bundle was exported from",
        f"{name}, content hash {_short(bundle.source_hash)}, is not the checkpoint that ships with sdmobile",
        "Give it: --reference CHECKPOINT.",
    )


def _short(content_hash: str) -> str:
    return content_hash[:12] or "none"
