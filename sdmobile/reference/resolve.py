"""Find the checkpoint that a bundle must be compared with, and its pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdmobile.errors import CheckpointError, SdmobileError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sdmobile.checkpoints import Checkpoint, LoraFile
    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.reference.pipeline import PipelineSpec

_AGAIN = "Export the bundle again."


def resolve_reference(
    bundle: Bundle, reference: Path | None, loras: Sequence[LoraFile] = (), control: Path | None = None
) -> Checkpoint:
    """Opens the checkpoint that the bundle was exported from.

    Args:
        bundle: the opened bundle.
        reference: a checkpoint, or None for one that ships with sdmobile, if the bundle was exported from it.
        loras: that were fused into it.
        control: folder of the control network, for a bundle with one.

    Raises:
        CheckpointError: the checkpoint's content hash is not the one in the manifest, or none was given and the shipped
            one is another.
    """
    from sdmobile.checkpoints import BUNDLED, bundled_checkpoint, open_checkpoint
    from sdmobile.checkpoints.control import with_control

    name = bundle.source.get("name", "unknown")
    _check_control(bundle, control)
    try:
        given = bundle.source.get("given") or {}
        shipped = bundled_checkpoint(str(name)) if name in BUNDLED else None
        checkpoint = open_checkpoint(reference or shipped, prediction_type=given.get("prediction_type"), loras=loras)
        if control is not None:  # under the bundle's name for it: a copy of the folder may have another
            checkpoint = with_control(checkpoint, control, bundle.manifest["control"]["name"])
    except SdmobileError as error:
        if reference is not None or loras or control is not None:
            raise
        raise _not_found(str(name), bundle) from error
    if checkpoint.content_hash == bundle.source_hash:
        return checkpoint
    fused = bundle.source.get("loras") or []
    if [(lora["sha256"], lora["scale"]) for lora in fused] != [(x.sha256, x.file.scale) for x in checkpoint.loras]:
        raise _other_loras(fused, checkpoint)
    if reference is None:
        raise _not_found(str(name), bundle)
    raise CheckpointError(
        f"the reference must be the checkpoint that the bundle was exported from ({_short(bundle.source_hash)})",
        f"{reference} has the content hash {_short(checkpoint.content_hash)}",
        "Give that checkpoint, or export the bundle again from this one.",
    )


def reference_pipeline(bundle: Bundle, checkpoint: Checkpoint) -> PipelineSpec:
    """Returns the pipeline that a bundle is compared with: everything in it is the checkpoint's.

    Taken from the bundle are the two choices of its export, guidance and resolution, and nothing else.

    Raises:
        BundleError: it states a guidance or a resolution that an export of this checkpoint cannot have.
        UnsupportedError: the checkpoint has no tokenizer.
    """
    from sdmobile.formats.bundle.reading import BundleError
    from sdmobile.reference.geometry import geometry_for
    from sdmobile.reference.pipeline import PipelineSpec

    choices = bundle.guidance, bundle.geometry.image_height
    try:
        geometry_for(checkpoint, *choices)
    except UnsupportedError as error:
        raise BundleError(
            "guidance and resolution of a bundle must be those of an export of its checkpoint", error, _AGAIN
        ) from error
    return PipelineSpec.from_checkpoint(checkpoint, *choices)


def _other_loras(fused: Sequence[Mapping[str, Any]], checkpoint: Checkpoint) -> CheckpointError:
    """Returns that a bundle was exported with other LoRAs than the reference was given."""
    names = [f"{lora['name']}:{lora['scale']!r}" for lora in fused]
    wanted = [f"{name} ({_short(lora['sha256'])})" for name, lora in zip(names, fused, strict=True)]
    given = [f"{lora.file} ({_short(lora.sha256)})" for lora in checkpoint.loras]
    return CheckpointError(
        f"the reference must have the LoRAs that the bundle was exported with: {', '.join(wanted) or 'none'}",
        ", ".join(given) or "none given",
        f"Give {' '.join(f'--lora {name}' for name in names)}, in this order." if names else "Leave --lora out.",
    )


def _check_control(bundle: Bundle, control: Path | None) -> None:
    """Raises UsageError unless a control network is given for exactly those bundles that have one."""
    stated = bundle.manifest.get("control")
    if stated is not None and control is None:
        raise UsageError(
            "the reference of a bundle with a control network needs that network too",
            stated["name"],
            "Give its folder to `validate` or `generate`: --control-model FOLDER.",
        )
    if stated is None and control is not None:
        raise UsageError("--control-model is for bundles that were exported with --control", control)


def _not_found(name: str, bundle: Bundle) -> CheckpointError:
    repository, commit = bundle.source.get("repository"), bundle.source.get("commit")
    return CheckpointError(
        "parity needs the checkpoint that the bundle was exported from",
        f"{name}, content hash {_short(bundle.source_hash)}, is none that ships with sdmobile",
        f"Give it: --reference {f'{repository}@{commit}' if repository and commit else 'CHECKPOINT'}.",
    )


def _short(content_hash: str) -> str:
    return content_hash[:12] or "none"
