"""A control network's package is called after the user's folder; its structure fits whatever that is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdmobile.checkpoints import open_checkpoint
from sdmobile.checkpoints.control import ControlFolder
from sdmobile.exporters.request import ExportRequest
from sdmobile.exporters.structures.architectures import architectures, write_hollow, write_hollow_model
from sdmobile.exporters.structures.find import find_structures
from sdmobile.exporters.structures.renaming import called
from sdmobile.reference.geometry import geometry_for


@pytest.mark.parametrize("target", ["ios", "android"])
def test_a_control_network_of_any_name_has_its_structure(tmp_path: Path, target: str) -> None:
    architecture = next(one for one in architectures() if one.name == "sd15-controlnet")
    assert architecture.control is not None
    folder = write_hollow_model(architecture.control, tmp_path / "sd-controlnet-canny")
    path = write_hollow(architecture, tmp_path / "mine")
    checkpoint = open_checkpoint(path, controls=(ControlFolder(folder, 1.0),))
    device = {"ios": "iphone-15-pro", "android": "galaxy-s23-ultra"}[target]
    request = ExportRequest(path, target, tmp_path / "x")
    found = find_structures(checkpoint, request, device, geometry_for(checkpoint, None, None), ("controlnet", "unet"))
    assert {name: fit.structure is not None for name, fit in found.items()} == {"controlnet": True, "unet": True}
    structure = found["controlnet"].structure
    assert structure is not None
    name = checkpoint.family.component("controlnet").files[target].file
    own = called(structure, name)
    assert own.record["file"] == own.record["contract"]["file_name"] == name
    assert {file.path.partition("/")[0] for file in own.files} == {name} == set(own.record["files"])
    assert [file.literal for file in own.files] == [file.literal for file in structure.files]
    assert [file.segments for file in own.files] == [file.segments for file in structure.files]
    assert ("canny" in name) == (target == "ios")
    assert called(own, name) is own
