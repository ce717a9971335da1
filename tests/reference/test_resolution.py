"""Pictures that are not square: by request, or because the checkpoint says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sdmobile.checkpoints import open_checkpoint
from sdmobile.cli.arguments import resolution_of
from sdmobile.errors import UnsupportedError, UsageError
from sdmobile.exporters.job import ExportJob
from sdmobile.families import FAMILIES
from sdmobile.families.contracts import contract_for
from sdmobile.families.unet import latent_size
from sdmobile.reference.geometry import geometry_for
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.sampling import SampleRequest, sample
from sdmobile.reference.torch_runner import TorchRunner
from tests.checkpoints.pictures import diffusers_picture, pipeline_of, psnr
from tests.synthetic import write_checkpoint

REQUEST = SampleRequest("a red circle", "blue", 2, 5, 4.0, "ddim")


def test_width_stands_before_height() -> None:
    assert resolution_of(None) is None
    assert resolution_of("64") == (64, 64)
    assert resolution_of("512x768") == resolution_of("512X768") == (768, 512)
    for wrong in ("", "x", "64x", "1x2x3", "64.0", "1e3", "64*48", "9" * 5000):
        with pytest.raises(UsageError, match="WIDTHxHEIGHT"):
            resolution_of(wrong)


def test_both_sides_are_checked(tiny_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint)
    sizes = geometry_for(checkpoint, "batch2", (32, 48))
    assert (sizes.image_height, sizes.image_width, sizes.latent_height, sizes.latent_width) == (32, 48, 16, 24)
    for wrong in ((32, 33), (33, 32), (0, 32), (32, -2), (32, 8194)):
        with pytest.raises(UnsupportedError, match="resolution must be"):
            geometry_for(checkpoint, "batch2", wrong)
    shapes = {
        target: contract_for(checkpoint.family, target, "vae_decoder", sizes).outputs[0].shape
        for target in ("ios", "android", "onnx")
    }
    assert shapes == {"ios": (1, 3, 32, 48), "android": (1, 32, 48, 3), "onnx": (1, 3, 32, 48)}


def test_a_picture_is_that_of_diffusers(tiny_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint)
    spec = PipelineSpec.from_checkpoint(checkpoint, resolution=(32, 48))
    image = sample(TorchRunner(checkpoint, spec.geometry), spec, REQUEST).image
    assert image.shape == (1, 3, 32, 48)
    assert psnr(image, diffusers_picture(pipeline_of(tiny_checkpoint), REQUEST, size=(32, 48))) > 100


def test_a_pair_of_a_checkpoint_is_kept(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "wide", changes={"unet": {"sample_size": [12, 20]}})
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.latent_size, checkpoint.image_size) == ((12, 20), (24, 40))
    assert not any("sample_size" in note for note in checkpoint.notes)
    spec = PipelineSpec.from_checkpoint(checkpoint)
    image = sample(TorchRunner(checkpoint, spec.geometry), spec, REQUEST).image
    assert psnr(image, diffusers_picture(pipeline_of(folder), REQUEST, size=(24, 40))) > 100
    for odd in ([12], [12, 20, 4], ["12", 20], [0, 20], None):
        notes: list[str] = []
        assert latent_size({"sample_size": odd}, {"sample_size": 32}, 2, notes) == (16, 16)
        assert "assumed" in notes[0]


def test_a_single_file_says_width_before_height() -> None:
    family = next(family for family in FAMILIES if family.name == "stable-diffusion")
    configs = {"vae": {"block_out_channels": [1, 2, 3, 4]}}

    def read(text: str) -> tuple[int, int]:
        return family.file_latent_size({"modelspec.resolution": text}, configs, [], [])

    assert read("512x768") == (96, 64)
    assert read("640") == (80, 80)
    assert read("4x768") == read("big") == read("512x") == (64, 64)


def test_a_resolution_travels_to_another_process(tmp_path: Path) -> None:
    job = ExportJob(tmp_path, "unet", "onnx", None, "batch2", (32, 48), tmp_path)
    for sides in ((32, 48), 64, None):
        sent = replace(job, resolution=sides)
        assert ExportJob.from_json(json.loads(json.dumps(sent.to_json()))) == sent
