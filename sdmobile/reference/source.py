"""What a user names to draw pictures with: a bundle or a checkpoint, as a runner with its pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sdmobile.checkpoints.changes import UNCHANGED, Changes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdmobile.checkpoints.control import ControlFolder
    from sdmobile.reference.geometry import Resolution
    from sdmobile.reference.pipeline import PipelineSpec
    from sdmobile.runtimes import Runner


def open_source(
    source: Path | None,
    runtime: str,
    reference: Path | None = None,
    threads: int | None = None,
    tokenizer: Path | None = None,
    prediction_type: str | None = None,
    changes: Changes = UNCHANGED,
    controls: Sequence[ControlFolder] = (),
    resolution: Resolution | None = None,
) -> tuple[Runner, PipelineSpec, str]:
    """Opens a bundle or a checkpoint for sampling.

    Args:
        source: bundle or checkpoint, None for the checkpoint that sdmobile ships.
        runtime: "auto", "torch", or a runtime of the bundle's target.
        reference: the bundle's source checkpoint, for torch.
        threads: CPU threads of the runtime.
        tokenizer: folder of the tokenizer, for a checkpoint that has none.
        prediction_type: what the denoiser predicts, for a checkpoint that does not say.
        changes: put on top of a checkpoint, the source's or the reference's.
        controls: control networks, for a checkpoint, and for torch where a bundle has some.
        resolution: of the picture, for a checkpoint; None for its own.

    Returns:
        The runner, the pipeline and the content hash of the checkpoint.

    Raises:
        UnsupportedError: the runtime cannot run it.
    """
    from sdmobile.checkpoints import open_checkpoint
    from sdmobile.errors import UnsupportedError
    from sdmobile.formats.bundle.reading import is_bundle, open_bundle
    from sdmobile.reference.pipeline import PipelineSpec
    from sdmobile.reference.resolve import reference_pipeline, resolve_reference
    from sdmobile.reference.torch_runner import TorchRunner
    from sdmobile.runtimes import bundle_runner

    if source is not None and is_bundle(source):
        if tokenizer is not None or prediction_type is not None:
            raise UnsupportedError("--tokenizer and --prediction-type are for checkpoints; a bundle has both", source)
        bundle = open_bundle(source)
        if resolution is not None:
            sides = bundle.geometry
            raise UnsupportedError(
                "a bundle's files have one size, which was chosen at the export",
                f"{source} draws {sides.image_width}x{sides.image_height} pixels",
                "Leave --resolution out, or export again with it",
            )
        if runtime == "torch":
            checkpoint = resolve_reference(bundle, reference, changes, controls)
            spec = reference_pipeline(bundle, checkpoint)
            return TorchRunner(checkpoint, spec.geometry), spec, bundle.source_hash
        if changes.options:
            raise UnsupportedError(
                "LoRAs and the like are put on top of a checkpoint; in a bundle's files they are already, or cannot be",
                " ".join(changes.options),
                "Export with them, or add --runtime torch",
            )
        if controls:
            raise UnsupportedError(
                "a control network goes with a checkpoint; a bundle has its own", controls[0].path, "Leave it out"
            )
        return bundle_runner(bundle, runtime, threads), PipelineSpec.from_bundle(bundle), bundle.source_hash
    if runtime not in ("auto", "torch"):
        raise UnsupportedError("a checkpoint is run by torch", runtime, "Export it first: sdmobile export.")
    checkpoint = open_checkpoint(source, tokenizer, prediction_type, changes, controls)
    spec = PipelineSpec.from_checkpoint(checkpoint, resolution=resolution)
    return TorchRunner(checkpoint, spec.geometry), spec, checkpoint.content_hash
