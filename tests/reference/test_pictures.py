"""Pictures and masks as a user gives them: what is read, and what is refused before any model is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sdmobile.basics.metrics import to_pixels
from sdmobile.checkpoints import open_checkpoint
from sdmobile.cli.app import app
from sdmobile.errors import UnsupportedError, UsageError
from sdmobile.families.edit import Edit
from sdmobile.reference.pictures import read_image, read_mask, read_pixels
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.sampling import Sampler, SampleRequest
from sdmobile.reference.torch_runner import TorchRunner
from tests.families.tiny import write_tiny


def _noise(width: int, height: int, name: str, folder: Path, mode: str = "RGB", **more: Any) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(folder / name, **more)
    return folder / name


def test_an_image_is_read_as_diffusers_reads_it(tmp_path: Path) -> None:
    from diffusers.image_processor import VaeImageProcessor

    for width, height, mode in ((32, 24, "RGB"), (64, 48, "RGB"), (96, 72, "L"), (32, 24, "RGBA")):
        file = _noise(width, height, f"{mode}-{width}.png", tmp_path, mode)
        wanted = VaeImageProcessor(vae_scale_factor=1).preprocess(Image.open(file).convert("RGB"), 24, 32)
        np.testing.assert_allclose(read_image(file, (32, 24)), wanted.numpy(), atol=1e-6)


def test_a_mask_is_white_where_it_is_repainted(tmp_path: Path) -> None:
    from diffusers.image_processor import VaeImageProcessor

    processor = VaeImageProcessor(vae_scale_factor=1, do_normalize=False, do_binarize=True, do_convert_grayscale=True)
    for width, height in ((32, 24), (64, 48)):
        file = _noise(width, height, f"mask-{width}.png", tmp_path, "L")
        wanted = processor.preprocess(Image.open(file), 24, 32)
        np.testing.assert_array_equal(read_mask(file, (32, 24)), wanted.numpy())
    Image.new("L", (32, 24)).save(tmp_path / "black.png")
    with pytest.raises(UsageError, match="black everywhere"):
        read_mask(tmp_path / "black.png", (32, 24))


def test_a_photograph_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read_image(_noise(24, 32, "turned.jpg", tmp_path, exif=exif), (32, 24))
    assert turned.shape == (1, 3, 24, 32)


def test_grey_values_of_16_bits_are_scaled(tmp_path: Path) -> None:
    """Pillow's own conversion makes 255 of all that is above 255, and a mask that repaints everything."""
    values = np.array([[0, 1000, 20000], [32767, 40000, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "depth.png")
    wanted = values.astype(np.int64) * 255 // 65535
    np.testing.assert_array_equal(read_pixels(tmp_path / "depth.png", (3, 2)), np.repeat(wanted[..., None], 3, axis=2))
    np.testing.assert_array_equal(read_mask(tmp_path / "depth.png", (3, 2))[0, 0], [[0, 0, 0], [0, 1, 1]])


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def _written(content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "file.png").write_bytes(content)
        return folder / "file.png"

    return write


_BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "nowhere.png", "readable"),
    "a pipe": (_pipe, "no regular file"),
    "empty": (_written(b""), "one of PNG"),
    "no picture": (_written(b"a picture" * 50), "one of PNG"),
    "cut off": (lambda folder: _written(_noise(64, 64, "a.png", folder).read_bytes()[:500])(folder), "readable"),
    "a format that runs code": (_written(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "one of PNG"),
    "too long a side": (lambda folder: _noise(8193, 1, "long.png", folder), "8192 pixels"),
    "other proportions": (lambda folder: _noise(33, 24, "wide.png", folder), "proportions"),
}


@pytest.mark.parametrize("what", _BAD)
def test_what_is_no_picture_is_refused(what: str, tmp_path: Path) -> None:
    make, text = _BAD[what]
    with pytest.raises(UsageError, match=text):
        read_image(make(tmp_path), (32, 32))


def _generate(*arguments: object) -> Any:
    asked = ["generate", *map(str, arguments), "--prompt", "a red circle", "--steps", "4"]
    return CliRunner().invoke(app, asked)


def test_wrong_combinations_are_refused_before_a_model_is_loaded(
    tiny_checkpoint: Path, onnx_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdmobile.reference import torch_runner

    def loaded(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(torch_runner.TorchRunner, "run", loaded)
    inpainting = write_tiny("stable-diffusion-inpainting", tmp_path / "inpainting")
    picture, out = _noise(32, 32, "picture.png", tmp_path), ("-o", tmp_path / "out.png")
    cases: list[tuple[tuple[object, ...], type[Exception], str]] = [
        ((tiny_checkpoint, "--mask", picture), UsageError, "Add --image"),
        ((tiny_checkpoint, "--strength", 0.5), UsageError, "Add --image"),
        ((tiny_checkpoint, "--image", picture, "--strength", 1.5), UsageError, "at most 1"),
        ((tiny_checkpoint, "--image", picture, "--strength", "nan"), UsageError, "at most 1"),
        ((tiny_checkpoint, "--image", picture, "--strength", 0.1), UsageError, "steps times strength"),
        ((tiny_checkpoint, "--image", picture, "--mask", picture), UnsupportedError, "for inpainting models"),
        ((inpainting,), UsageError, "Give --image and --mask"),
        ((inpainting, "--image", picture), UsageError, "Give --image and --mask"),
        ((inpainting, "--image", tmp_path / "no.png", "--mask", picture), UsageError, "readable"),
    ]
    for arguments, kind, text in cases:
        error = _generate(*arguments, *out).exception
        assert isinstance(error, kind), arguments
        assert text in str(error)
    assert not (tmp_path / "out.png").exists()


def test_a_picture_changes_more_with_more_strength(tiny_checkpoint: Path, tmp_path: Path) -> None:
    picture = _noise(32, 32, "picture.png", tmp_path)
    for strength in ("0.25", "1"):
        out = tmp_path / f"{strength}.png"
        result = _generate(
            tiny_checkpoint, "--image", picture, "--strength", strength, "--scheduler", "ddim", "-o", out
        )
        assert result.exit_code == 0, result.output
    texts = Image.open(tmp_path / "0.25.png").info
    assert (texts["image"], texts["strength"], texts["scheduler"]) == ("picture.png", "0.25", "ddim")
    assert len(texts["edit_hash"]) == 64
    # What is left of the picture when nothing is drawn: the autoencoder is a random one here.
    checkpoint = open_checkpoint(tiny_checkpoint)
    sampler = Sampler(TorchRunner(checkpoint), PipelineSpec.from_checkpoint(checkpoint))
    start = sampler.start(SampleRequest("", edit=Edit(read_image(picture, (32, 32)))))
    assert start.clean is not None
    plain = to_pixels(sampler.decode(start.clean)).astype(np.int16)
    pixels = [np.asarray(Image.open(tmp_path / f"{name}.png"), np.int16) for name in ("0.25", "1")]
    little, much = (float(np.abs(one - plain).mean()) for one in pixels)
    assert 0 < little < 0.8 * much
