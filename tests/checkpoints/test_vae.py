"""Another autoencoder, TAESD's too, and a text encoder cut short: pictures as Diffusers' own pipeline makes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sdmobile.checkpoints import Changes, LoraFile, load_model, open_checkpoint
from sdmobile.errors import CheckpointError, UnsupportedError, UsageError
from sdmobile.families.contracts import contract_for, wrap
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.sampling import SampleRequest, sample
from sdmobile.reference.torch_runner import TorchRunner
from tests.checkpoints.ldm_layout import vae_to_ldm
from tests.checkpoints.pictures import diffusers_picture, pipeline_of, psnr
from tests.checkpoints.single import REGULAR, write_single
from tests.synthetic import write_checkpoint

REQUEST = SampleRequest("a red circle", "blue", 3, 5, 4.0, "ddim")


def _picture(folder: Path, changes: Changes, request: SampleRequest = REQUEST) -> np.ndarray:
    checkpoint = open_checkpoint(folder, changes=changes)
    assert not checkpoint.misfits
    assert not checkpoint.unreadable
    spec = PipelineSpec.from_checkpoint(checkpoint, resolution=32)  # of a single file, 512 are assumed
    return sample(TorchRunner(checkpoint, spec.geometry), spec, request).image


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose autoencoder is of the shape that a single file implies."""
    changes = {**REGULAR, "vae": {**REGULAR["vae"], "scaling_factor": 0.25}}
    return write_checkpoint(tmp_path_factory.mktemp("other") / "other", seed=9, changes=changes)


@pytest.fixture(scope="module")
def taesd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    torch.manual_seed(3)
    widths, blocks = (16, 16), (1, 2)
    tiny: Any = AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks[::-1],
    )
    folder = tmp_path_factory.mktemp("taesd")
    tiny.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["folder", "whole checkpoint", "original layout", "with its prefix", "TAESD"])
def test_pictures_are_those_of_a_pipeline_with_it(
    kind: str, tiny_checkpoint: Path, other: Path, taesd: Path, tmp_path: Path
) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    given, file = other / "vae", tmp_path / "x.vae.safetensors"
    theirs: Any = AutoencoderKL.from_pretrained(given)
    if kind == "whole checkpoint":
        given = other
    elif kind == "TAESD":
        given, theirs = taesd, AutoencoderTiny.from_pretrained(taesd)
    elif kind != "folder":
        tensors = vae_to_ldm(load_file(given / "diffusion_pytorch_model.safetensors"), levels=2)
        bare = {name.removeprefix("first_stage_model."): value for name, value in tensors.items()}
        save_file({k: v.contiguous() for k, v in (bare if kind == "original layout" else tensors).items()}, file)
        given = file
        theirs.register_to_config(scaling_factor=0.18215)  # a single file says none
    changes = Changes(vae=given)
    opened = open_checkpoint(tiny_checkpoint, changes=changes)
    assert opened.scaling_factor == theirs.config.scaling_factor
    assert any("--vae" in note for note in opened.notes)
    assert opened.changes["vae"]["class_name"] == type(theirs).__name__
    found = _picture(tiny_checkpoint, changes)
    assert psnr(found, diffusers_picture(pipeline_of(tiny_checkpoint, vae=theirs), REQUEST)) > 100
    assert psnr(found, _picture(tiny_checkpoint, Changes())) < 60


def test_a_single_file_takes_another_and_names_what_lies_beside_it(other: Path, taesd: Path, tmp_path: Path) -> None:
    file = write_single(other, tmp_path / "model.safetensors")
    shutil.copytree(other / "tokenizer", tmp_path / "tokenizer")
    assert not any("beside the file" in note for note in open_checkpoint(file).notes)
    for name in ("other.vae.pt", "model.vae.safetensors"):
        (tmp_path / name).write_bytes(b"")
        note = next(note for note in open_checkpoint(file).notes if "beside the file" in note)
        assert f"--vae {name}" in note
    assert psnr(_picture(file, Changes(vae=other / "vae")), _picture(file, Changes())) < 60
    found = _picture(file, Changes(vae=taesd))
    assert psnr(found, _picture(other, Changes(vae=taesd))) > 100
    assert not any("beside the file" in note for note in open_checkpoint(file, changes=Changes(vae=taesd)).notes)


@pytest.mark.parametrize("target", ["ios", "android"])
def test_the_files_halves_of_taesd(target: str, tiny_checkpoint: Path, taesd: Path) -> None:
    """What is captured for a phone computes Diffusers' encode and decode; the encoder's spread is none."""
    checkpoint = open_checkpoint(tiny_checkpoint, changes=Changes(vae=taesd))
    spec = PipelineSpec.from_checkpoint(checkpoint)
    model: Any = load_model(checkpoint, "vae")
    generator = torch.Generator().manual_seed(0)
    for name in ("vae_decoder", "vae_encoder"):
        part = checkpoint.family.component(name)
        contract = contract_for(checkpoint.family, target, name, spec.geometry)
        canonical = torch.rand(part.inputs[0].shape(spec.geometry), generator=generator) * 2 - 1
        with torch.inference_mode():
            wanted: Any = part.reference(model, {part.inputs[0].name: canonical})
            (array,) = contract.to_target({part.inputs[0].name: canonical.numpy()}).values()
            result = wrap(target, part, model)(torch.from_numpy(array))
        (output,) = contract.outputs
        found = contract.from_target({output.name: result.numpy()})[part.outputs[0].name]
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
        if name == "vae_encoder":
            latent = model.encode(canonical).latents
            assert torch.equal(wanted[:, :4], latent)
            assert bool((wanted[:, 4:] == -30).all())


def test_bytes_make_another_checkpoint_and_names_do_not(other: Path, taesd: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    tensors = vae_to_ldm(load_file(other / "vae" / "diffusion_pytorch_model.safetensors"), levels=2)
    save_file({k: v.contiguous() for k, v in tensors.items()}, file)
    copied = Path(shutil.copy(file, tmp_path / "b.safetensors"))
    choices = [Changes(), *(Changes(vae=path) for path in (other / "vae", taesd, file))]
    hashes = [open_checkpoint(other, changes=changes).content_hash for changes in choices]
    assert len(set(hashes)) == len(hashes)
    assert open_checkpoint(other, changes=Changes(vae=copied)).content_hash == hashes[3]
    for changes in choices:
        assert Changes.from_json(json.loads(json.dumps(changes.to_json()))) == changes


def test_what_does_not_fit_is_refused(other: Path, taesd: Path, tmp_path: Path) -> None:
    def refused(path: Path, kind: type[Exception], match: str) -> None:
        with pytest.raises(kind, match=match):
            open_checkpoint(other, changes=Changes(vae=path))

    def edited(name: str, source: Path, **changes: Any) -> Path:
        folder = Path(shutil.copytree(source, tmp_path / name))
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        return folder

    wide = write_checkpoint(
        tmp_path / "wide", changes={"vae": {"latent_channels": 8}, "unet": {"in_channels": 8, "out_channels": 8}}
    )
    refused(wide / "vae", CheckpointError, r"trained for, 4.*has 8")
    refused(edited("vq", other / "vae", _class_name="VQModel"), UnsupportedError, "VQModel")
    refused(edited("shifted", taesd, shift_factor=0.1), UnsupportedError, "shifted")
    refused(edited("widths", taesd, decoder_block_out_channels=None), UnsupportedError, "decoder_block_out_channels")
    refused(edited("scale", taesd, scaling_factor=float("inf")), CheckpointError, "finite")
    refused(tmp_path / "nowhere", CheckpointError, "does not exist")
    refused(tmp_path, CheckpointError, "no config.json")
    refused(other / "vae" / "diffusion_pytorch_model.safetensors", CheckpointError, "folder with config.json")
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 64)
    refused(tmp_path / "bad.safetensors", CheckpointError, "well-formed|complete")
    blocks = edited("blocks", taesd, num_decoder_blocks=[5, 1])
    assert "vae" in open_checkpoint(other, changes=Changes(vae=blocks)).misfits


def test_layers_left_out_are_those_of_clip_skip(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """With the negative text cut as well, which Diffusers leaves whole: there it is given as embeddings."""
    folder = write_checkpoint(tmp_path / "deep", changes={"text_encoder": {"num_hidden_layers": 4}})
    pipeline = pipeline_of(folder)
    # Where Diffusers looks for the final norm, which Transformers has moved: not as a module, that would be in itself.
    pipeline.text_encoder.__dict__["text_model"] = pipeline.text_encoder
    for skipped in (1, 3):
        unguided = SampleRequest("a red circle", "", 3, 5, 1.0, "ddim")
        found = _picture(folder, Changes(clip_skip=skipped), unguided)
        assert psnr(found, diffusers_picture(pipeline, unguided, clip_skip=skipped)) > 100
        negative = pipeline.encode_prompt("blue", "cpu", 1, False, clip_skip=skipped)[0]
        request = SampleRequest("a red circle", "blue", 3, 5, 4.0, "ddim")
        expected = diffusers_picture(
            pipeline, request, clip_skip=skipped, negative_prompt=None, negative_prompt_embeds=negative
        )
        assert psnr(_picture(folder, Changes(clip_skip=skipped), request), expected) > 100
        assert psnr(expected, _picture(folder, Changes(), request)) < 60
    for wrong in (4, 10**9):
        with pytest.raises(UsageError, match="less than the text encoder's 4 layers"):
            open_checkpoint(folder, changes=Changes(clip_skip=wrong))
    with pytest.raises(UsageError, match="at least 1"):
        Changes(clip_skip=0)
    one, two = (open_checkpoint(folder, changes=Changes(clip_skip=count)) for count in (1, 2))
    assert len({open_checkpoint(folder).content_hash, one.content_hash, two.content_hash}) == 3
    assert one.components["text_encoder"].parameters > two.components["text_encoder"].parameters

    # A LoRA may change layers that are left out.
    width = 32
    lora = {
        f"text_encoder.text_model.encoder.layers.{layer}.self_attn.q_proj.lora_{way}.weight": torch.ones(shape)
        for layer in range(4)
        for way, shape in (("A", (2, width)), ("B", (width, 2)))
    }
    save_file(lora, tmp_path / "lora.safetensors")
    changes = Changes((LoraFile(tmp_path / "lora.safetensors"),), clip_skip=2)
    both = load_model(open_checkpoint(folder, changes=changes), "text_encoder").state_dict()
    whole = load_model(open_checkpoint(folder, changes=Changes(changes.loras)), "text_encoder").state_dict()
    assert both.keys() < whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in both.items())


@pytest.mark.slow
def test_weights_of_a_phones_taesd_are_found(tmp_path: Path, tiny_checkpoint: Path, taesd: Path) -> None:
    """LiteRT's converter puts 3·tanh, 2·y − 1 and ReLU into the convolutions beside them."""
    from sdmobile.exporters.bundle import export_bundle
    from sdmobile.exporters.cache import ComponentCache
    from sdmobile.exporters.request import ExportRequest, make_plan
    from sdmobile.formats.bundle.reading import open_bundle
    from sdmobile.validate.weights.check import check_weights
    from tests.in_process import exports_in_this_process

    names, out = ("vae_decoder", "vae_encoder"), tmp_path / "bundle"
    plan = make_plan(ExportRequest(tiny_checkpoint, "android", out, components=names, changes=Changes(vae=taesd)))
    with exports_in_this_process():
        export_bundle(plan, ComponentCache(None), lambda *_: None)
    checks = check_weights(open_bundle(out), plan.checkpoint, names)
    transforms = {item["transform"] for check in checks for item in check.tensors}
    assert [check.status.value for check in checks] == ["passed"] * 2, [check.findings for check in checks]
    assert {"times 2, -1", "axes [0, 2, 3, 1], times 3", "axes [0, 2, 3, 1], times 0.5"} <= transforms
