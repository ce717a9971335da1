"""Find the checkpoint that a bundle must be compared with, and its pipeline."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sdmobile.checkpoints.changes import KINDS, UNCHANGED, Changes, nameless, options_of
from sdmobile.errors import CheckpointError, SdmobileError, UnsupportedError, UsageError
from sdmobile.families.control import controls_from_json
from sdmobile.families.few_steps import Distillation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.checkpoints.control import ControlFolder
    from sdmobile.families.control import Control
    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.reference.pipeline import PipelineSpec

_AGAIN = "Export the bundle again."


def resolve_reference(
    bundle: Bundle,
    reference: Path | None,
    changes: Changes = UNCHANGED,
    controls: Sequence[ControlFolder] = (),
) -> Checkpoint:
    """Opens the checkpoint that the bundle was exported from.

    Args:
        bundle: the opened bundle.
        reference: a checkpoint, or None for one that ships with sdmobile, if the bundle was exported from it.
        changes: that were put on top of it; how many layers of its text encoder were left out, and
            how it was distilled, the bundle says.
        controls: the control networks, for a bundle with some, in its order and with its scales.

    Raises:
        CheckpointError: the checkpoint's content hash is not the one in the manifest, or none was given and the shipped
            one is another.
    """
    from sdmobile.checkpoints import BUNDLED, bundled_checkpoint, open_checkpoint
    from sdmobile.checkpoints.control import with_controls

    name = bundle.source.get("name", "unknown")
    stated = controls_from_json(bundle.manifest.get("control"))
    _check_controls(stated, controls)
    try:
        given = bundle.source.get("given") or {}
        shipped = bundled_checkpoint(str(name)) if name in BUNDLED else None
        said = given.get("distilled")
        distilled = None if said is None else Distillation.parse(said)
        asked = replace(changes, clip_skip=given.get("clip_skip"), distilled=distilled)
        checkpoint = open_checkpoint(reference or shipped, prediction_type=given.get("prediction_type"), changes=asked)
        # Under the bundle's names for them: a copy of a folder may have another.
        checkpoint = with_controls(checkpoint, controls, [control.name for control in stated])
    except SdmobileError as error:
        if reference is not None or changes.options or controls:
            raise
        raise _not_found(str(name), bundle) from error
    if checkpoint.content_hash == bundle.source_hash:
        return checkpoint
    changed = {kind: bundle.source[kind] for kind in KINDS if bundle.source.get(kind)}
    if nameless(changed) != nameless(checkpoint.changes):
        raise _other_changes(changed, checkpoint.changes)
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

    choices = bundle.guidance, (bundle.geometry.image_height, bundle.geometry.image_width)
    try:
        geometry_for(checkpoint, *choices)
    except UnsupportedError as error:
        raise BundleError(
            "guidance and resolution of a bundle must be those of an export of its checkpoint", error, _AGAIN
        ) from error
    return PipelineSpec.from_checkpoint(checkpoint, *choices)


def _other_changes(stated: Mapping[str, Any], given: Mapping[str, Any]) -> CheckpointError:
    """Returns that a bundle was exported with other LoRAs and the like than the reference was given."""
    wanted = options_of(stated)
    superfluous = {option.split()[0] for option in options_of(given)}
    return CheckpointError(
        "the reference must have the LoRAs and the like that the bundle was exported with: "
        f"{', '.join(_hashed(stated)) or 'none'}",
        ", ".join(_hashed(given)) or "none given",
        f"Give {' '.join(wanted)}, in this order." if wanted else f"Leave {' and '.join(sorted(superfluous))} out.",
    )


def _hashed(changes: Mapping[str, Any]) -> list[str]:
    """Returns each change with its hash, for people."""
    items = [item for kind in KINDS for item in _listed(changes.get(kind))]
    names = [option.partition(" ")[2] for option in options_of(changes)]
    return [f"{name} ({_short(item['sha256'])})" for name, item in zip(names, items, strict=True)]


def _listed(value: Any) -> list[Mapping[str, Any]]:
    return [value] if isinstance(value, dict) else list(value or ())


def _check_controls(stated: Sequence[Control], given: Sequence[ControlFolder]) -> None:
    """Raises UsageError unless control networks are given as a bundle has them: so many, with its scales."""
    if given and not stated:
        raise UsageError("--control-model is for bundles that were exported with --control", given[0].path)
    wanted = [control.scale for control in stated]
    if [folder.scale for folder in given] == wanted:
        return
    options = [f"--control-model {'FOLDER' if scale == 1 else f'FOLDER:{scale:g}'}" for scale in wanted]
    if not given:
        raise UsageError(
            "the reference of a bundle with a control network needs that network too",
            ", ".join(control.name for control in stated),
            f"Give its folder: {' '.join(options)}.",
        )
    raise UsageError(
        "the reference must have the bundle's control networks, in its order and with its scales: "
        + ", ".join(f"{control.name} at {control.scale:g}" for control in stated),
        ", ".join(f"{folder.path.name} at {folder.scale:g}" for folder in given),
        f"Give {' '.join(options)}.",
    )


def _not_found(name: str, bundle: Bundle) -> CheckpointError:
    repository, commit = bundle.source.get("repository"), bundle.source.get("commit")
    return CheckpointError(
        "parity needs the checkpoint that the bundle was exported from",
        f"{name}, content hash {_short(bundle.source_hash)}, is none that ships with sdmobile",
        f"Give it: --reference {f'{repository}@{commit}' if repository and commit else 'CHECKPOINT'}.",
    )


def _short(content_hash: str) -> str:
    return content_hash[:12] or "none"
