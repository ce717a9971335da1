"""Makes the structure of a component out of files that were exported the long way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.exporters.structures.keys import defaults_of, shaping, versions_of
from sdmobile.exporters.structures.learning import Draw, Weights, learn_files
from sdmobile.exporters.structures.probe import PROBE_SEED, probe_array
from sdmobile.exporters.structures.structure import Structure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sdmobile.checkpoints import Checkpoint


def make_structure(
    facts: Mapping[str, Any],
    checkpoint: Checkpoint,
    device: str,
    model: str,
    form: Mapping[str, Any],
    names: list[str],
    made: Path,
    probe: Path,
    seed: int | None,
    graph: str,
) -> Structure:
    """Returns the structure of a component's files.

    Args:
        facts: what decides them.
        checkpoint: they are of.
        device: name of the device profile.
        model: that the component is cut from.
        form: of the component's record.
        names: of the files and packages.
        made: folder of the finished files, on which the structure is proved.
        probe: folder of the same files with the weights of the probe.
        seed: of the random weights of `made`, None where they are the checkpoint's.
        graph: hash of the rewritten graph.

    Raises:
        ComponentError: a stored tensor is of unknown origin.
    """
    info = checkpoint.components[model]
    shapes = {name: one.shape for name, one in info.tensors.items()}
    files = learn_files(
        names,
        shapes,
        Weights(probe, _drawn(PROBE_SEED, shapes)),
        Weights(made, _proof(checkpoint, model, shapes, seed)),
    )
    config = {"own": shaping(info.config), "defaults": defaults_of(info.class_name)}
    versions = {**versions_of(facts["contract"]["target"]), "graph": graph}
    return Structure(facts, config, {"checkpoint": checkpoint.name, "device": device}, versions, form, files)


def _drawn(seed: int, shapes: Mapping[str, tuple[int, ...]]) -> Draw:
    return lambda name: probe_array(seed, name, shapes[name])


def _proof(checkpoint: Checkpoint, model: str, shapes: Mapping[str, tuple[int, ...]], seed: int | None) -> Draw:
    if seed is not None:
        return _drawn(seed, shapes)

    def read(name: str) -> NDArray[np.float32]:
        from sdmobile.checkpoints.load import read_weights

        return next(iter(read_weights(checkpoint, model, [name])))[1].numpy()

    return read
