"""The structures that come with the package: there, current, small, and right on weights that they were not made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdmobile.basics.files import files_of
from sdmobile.checkpoints import Checkpoint
from sdmobile.checkpoints.control import ControlFolder
from sdmobile.exporters.component import export_component
from sdmobile.exporters.lowering import provenance_of
from sdmobile.exporters.structures.architectures import Architecture, architectures
from sdmobile.exporters.structures.find import SHIPPED
from sdmobile.exporters.structures.keys import staleness
from sdmobile.exporters.structures.probe import PROBE_SEED, PROOF_SEED, probe_array
from sdmobile.exporters.structures.shipping import Wanted, opened, wanted_structures
from sdmobile.exporters.structures.streaming import write_files
from sdmobile.exporters.structures.structure import SUFFIX, read_structure
from sdmobile.exporters.structures.texts import texts_for

OTHER_SEED = 3
_MOST_BYTES = 12_000_000
_SHIPPED = [one for one in architectures() if one.ships]
_FILES = sorted(SHIPPED.glob(f"*{SUFFIX}"))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Returns the checkpoint of an architecture by name, weights or no weights."""
    folder = tmp_path_factory.mktemp("architectures")

    @cache
    def open_one(name: str) -> Checkpoint:
        (folder / name).mkdir()
        return opened(_architecture(name), folder / name)

    return open_one


def _architecture(name: str) -> Architecture:
    return next(one for one in architectures() if one.name == name)


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)
def test_none_is_stale(path: Path) -> None:
    """A change of a rule must not ship old forms; `make structures` makes them anew."""
    assert staleness(read_structure(path)) is None


def test_every_architecture_has_those_of_every_device(checkpoints: Any) -> None:
    wanted = {one.path for a in _SHIPPED for one in wanted_structures(a, checkpoints(a.name))}
    assert wanted == set(_FILES)


def test_they_are_small() -> None:
    assert 0 < sum(path.stat().st_size for path in _FILES) <= _MOST_BYTES


def _both_ways(wanted: Wanted, checkpoint: Checkpoint, folder: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Returns the files of random weights that the structure was not made of: by the long way, and streamed."""
    assert OTHER_SEED not in (PROBE_SEED, PROOF_SEED)
    structure = read_structure(wanted.path)
    long, streamed = folder / "long", folder / "streamed"
    controls = tuple(
        ControlFolder(files[0].parent, control.scale)
        for files, control in zip(checkpoint.control_files, checkpoint.family.controls, strict=True)
    )
    export_component(replace(wanted.job, out_dir=long, probe=OTHER_SEED, controls=controls))
    streamed.mkdir()
    shapes: Mapping[str, Any] = structure.facts["tensors"]
    part = checkpoint.family.component(wanted.job.component)

    def read(name: str, half: bool) -> np.ndarray:
        return probe_array(OTHER_SEED, name, tuple(shapes[name]))

    provenance = provenance_of(checkpoint)
    write_files(structure, streamed, read, lambda texts: texts_for(texts, provenance, part.name, part.summary))
    return _contents(long), _contents(streamed)


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_of(folder)}


def _check(architecture: str, device: str, component: str, checkpoints: Any, folder: Path) -> None:
    checkpoint = checkpoints(architecture)
    (wanted,) = (
        one
        for one in wanted_structures(_architecture(architecture), checkpoint)
        if (one.device, one.job.component) == (device, component)
    )
    long, streamed = _both_ways(wanted, checkpoint, folder)
    assert long.keys() == streamed.keys()
    assert [name for name in long if long[name] != streamed[name]] == []


@pytest.mark.parametrize("device", ["iphone-15-pro", "galaxy-s23-ultra"])
@pytest.mark.parametrize("component", ["text_encoder", "vae_decoder"])
def test_other_weights_give_the_files_of_the_long_way(
    device: str, component: str, checkpoints: Any, tmp_path: Path
) -> None:
    _check("shapes-64", device, component, checkpoints, tmp_path)


_ALL = [
    (architecture.name, device, component)
    for architecture in _SHIPPED
    for device in ("iphone-14-pro-max", "iphone-15-pro", "galaxy-s23-ultra")
    for component in (
        *(["controlnet"] if architecture.control else []),
        "text_encoder",
        "unet",
        "vae_decoder",
        "vae_encoder",
    )
]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "device", "component"), _ALL)
def test_every_one_gives_the_files_of_the_long_way(
    architecture: str, device: str, component: str, checkpoints: Any, tmp_path: Path
) -> None:
    _check(architecture, device, component, checkpoints, tmp_path)
