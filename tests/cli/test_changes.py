"""What is put on top of a checkpoint, from the command line to a validated bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from sdmobile.cli.app import app
from sdmobile.errors import CheckpointError, UsageError
from tests.in_process import exports_in_this_process


def _invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    folder = tmp_path_factory.mktemp("files")
    save_file({"<toy>": torch.randn(2, 32, generator=torch.Generator().manual_seed(0))}, folder / "toy.safetensors")
    torch.manual_seed(1)
    sizes = {f"{half}_block_out_channels": (16, 16) for half in ("encoder", "decoder")}
    tiny: Any = AutoencoderTiny(**sizes, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))  # pyright: ignore
    tiny.save_pretrained(folder / "taesd")
    return folder


@pytest.mark.slow
def test_to_a_validated_bundle(tmp_path: Path, tiny_checkpoint: Path, files: Path) -> None:
    """Everything at once, not square; the reference needs the same files, and the bundle knows the layers left out."""
    given = ("--embedding", files / "toy.safetensors", "--vae", files / "taesd")
    cache, out = tmp_path / "cache", tmp_path / "bundle"

    def export(where: Path, *more: object) -> dict[str, Any]:
        options = ("--target", "onnx", "-o", where, "--cache-dir", cache, "--resolution", "48x32", "--json")
        with exports_in_this_process():
            result = _invoke("export", tiny_checkpoint, *options, *more)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    manifest = export(out, *given, "--clip-skip", 1)["manifest"]
    only = ("--components", "text_encoder")
    assert export(tmp_path / "again", *given, "--clip-skip", 1, *only)["reused"] == ["text_encoder"]
    assert export(tmp_path / "whole", *given, *only)["reused"] == []
    source = manifest["source"]
    assert source["given"]["clip_skip"] == 1
    assert source["embeddings"][0]["tokens"] == ["<toy>", "<toy>_1"]
    assert source["vae"]["class_name"] == "AutoencoderTiny"
    assert (manifest["geometry"]["image_height"], manifest["geometry"]["image_width"]) == (32, 48)
    readme = (out / "README.md").read_text("utf-8")
    assert "| `<toy>` | `<toy>` `<toy>_1` | `toy.safetensors` |" in readme
    assert "the autoencoder `taesd` (AutoencoderTiny), with 1 layer of" in readme

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a <toy> on white\n", "utf-8")
    sizes = ("--prompts", prompts, "--steps", "2", "--max-samples", "2", "--no-cache", "--json")
    right = _invoke("validate", out, "--reference", tiny_checkpoint, *given, *sizes)
    assert right.exit_code == 0, right.output
    assert json.loads(right.stdout)["complete"]
    wrong = _invoke("validate", out, "--reference", tiny_checkpoint, *given[:2], *sizes)
    assert isinstance(wrong.exception, CheckpointError)
    assert "Give --embedding toy.safetensors:<toy> --vae taesd, in this order" in str(wrong.exception)

    from PIL import Image

    asked = ("--prompt", "a <TOY> on white", "--steps", "2", "-o")
    assert _invoke("generate", out, *asked, tmp_path / "bundle.png").exit_code == 0
    torch_run = ("--runtime", "torch", "--reference", tiny_checkpoint, *given)
    assert _invoke("generate", out, *asked, tmp_path / "torch.png", *torch_run).exit_code == 0
    one, two = (Image.open(tmp_path / f"{name}.png") for name in ("bundle", "torch"))
    assert one.size == (48, 32)
    assert np.abs(np.asarray(one).astype(int) - np.asarray(two)).max() <= 1
    assert "--clip-skip" not in one.info
    assert two.info["changes"] == "--embedding toy.safetensors --vae taesd"


def test_what_is_asked_for_is_judged_before_any_work(tmp_path: Path, tiny_checkpoint: Path, files: Path) -> None:
    given = ("--embedding", f"{files / 'toy.safetensors'}:<Cat>", "--vae", files / "taesd", "--clip-skip", 1)
    inspected = json.loads(_invoke("inspect", tiny_checkpoint, *given, "--json").stdout)
    assert inspected["embeddings"][0]["tokens"] == ["<cat>", "<cat>_1"]
    assert (inspected["vae"]["name"], inspected["clip_skip"], inspected["scaling_factor"]) == ("taesd", 1, 1.0)
    assert any("<cat>" in line for line in inspected["targets"]["ios"]["warnings"])
    dry = ("export", tiny_checkpoint, "--target", "android", "--dry-run", "--json", "-o", tmp_path / "x")
    planned = json.loads(_invoke(*dry, *given, "--resolution", "48x32").stdout)
    assert planned["embeddings"] == inspected["embeddings"]
    assert (planned["vae"], planned["clip_skip"]) == (inspected["vae"], 1)
    assert planned["geometry"]["latent_width"] == 24
    for options, kind in (
        (("--clip-skip", 2), UsageError),
        (("--embedding", files / "nowhere.pt"), CheckpointError),
        (("--vae", tmp_path), CheckpointError),
        (("--resolution", "48x"), UsageError),
    ):
        assert isinstance(_invoke(*dry, *options).exception, kind)
    assert not (tmp_path / "x").exists()
