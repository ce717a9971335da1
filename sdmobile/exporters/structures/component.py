"""Exports one component by streaming its weights into a structure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.float16 import warnings_for
from sdmobile.basics.memory import peak_resident_bytes
from sdmobile.exporters.gpu_warnings import gpu_warnings
from sdmobile.exporters.lowering import provenance_of
from sdmobile.exporters.structures.keys import file_stem
from sdmobile.exporters.structures.renaming import called
from sdmobile.exporters.structures.streaming import Written, write_files
from sdmobile.exporters.structures.texts import texts_for
from sdmobile.exporters.structures.weights import StreamedWeights
from sdmobile.formats.bundle.contracts import Contract

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint
    from sdmobile.exporters.structures.structure import Structure


def stream_component(structure: Structure, checkpoint: Checkpoint, folder: Path) -> dict[str, Any]:
    """Writes a component's files and returns its record as a JSON object, as `exporters.component` does.

    Args:
        structure: that fits the checkpoint.
        checkpoint: the checkpoint.
        folder: where the files appear.

    Raises:
        CheckpointError: a weight is not finite, or a file cannot be read.
        OrdinaryWeightsError: the checkpoint has weights for which the structure does not hold.
        OSError: a file cannot be written.
    """
    started = time.perf_counter()
    part = checkpoint.family.component(structure.facts["component"])
    structure = called(structure, part.files[structure.facts["contract"]["target"]].file)
    weights = StreamedWeights(checkpoint, part.model)
    provenance = provenance_of(checkpoint)

    def texts(template: Mapping[str, Any]) -> dict[str, Any]:
        return texts_for(template, provenance, part.name, part.summary)

    written = write_files(structure, folder, weights.read, texts)
    form = dict(structure.record)
    lowered = form.pop("lowered")
    # With their keys in the order that the long way writes, in the app's files, too.
    form["contract"] = Contract.from_json(form["contract"]).to_json()
    form["chain"] = [Contract.from_json(part).to_json() for part in form["chain"]]
    stage = {
        "name": "stream",
        "seconds": round(time.perf_counter() - started, 3),
        "peak_rss_bytes": peak_resident_bytes(),
        "fp16_losses": [loss.to_json() for loss in weights.losses],
        "lowered": lowered,
    }
    return {
        **form,
        "stages": [stage],
        "warnings": [*form["warnings"], *warnings_for(weights.losses), *_predicted(structure, written)],
        "structure": file_stem(structure.facts),
        "bytes": written.bytes,
        "sha256": written.sha256,
    }


def _predicted(structure: Structure, written: Written) -> list[str]:
    """Returns what the lint says of the files, which it reads as they were written."""
    if structure.facts["contract"]["target"] != "android":
        return []
    return [line for file in written.files for line in gpu_warnings(file, structure.facts["runtime"])]
