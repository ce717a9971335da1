"""A single file must give the very same functions as the Diffusers modules it was written from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from sdmobile.checkpoints import arrays, load_model, load_tokenizer, open_checkpoint
from sdmobile.checkpoints.bpe import write_clip_tokenizer
from sdmobile.checkpoints.load import read_weights
from sdmobile.checkpoints.modules import empty_module
from sdmobile.errors import CheckpointError, UnsupportedError
from tests.checkpoints.ldm_layout import clip_to_ldm, clip_to_open_clip, unet_to_ldm, vae_to_ldm
from tests.families import SD

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from sdmobile.checkpoints.headers import TensorInfo

TEXT = {"vocab_size": 600, "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2}
UNET: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [64, 128],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 2,
    "cross_attention_dim": 128,
    "norm_num_groups": 32,
}
VAE = {
    "latent_channels": 4,
    "block_out_channels": [32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "norm_num_groups": 32,
}


def _random(component: str, config: dict[str, Any]) -> nn.Module:
    module = empty_module(SD.model(component), config).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(7)
    for parameter in module.parameters():
        parameter.data.normal_(0.0, 0.05, generator=generator)
    for name, buffer in module.named_buffers():
        assert name.endswith("position_ids")
        buffer.copy_(torch.arange(buffer.shape[-1])[None])
    return module.eval()


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def single(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, dict[str, nn.Module]]:
    kind = request.param
    act, heads = ("quick_gelu", 8) if kind == "sd1" else ("gelu", [1, 2])
    modules = {
        "text_encoder": _random("text_encoder", {**TEXT, "num_attention_heads": 2, "hidden_act": act}),
        "unet": _random("unet", {**UNET, "attention_head_dim": heads, "use_linear_projection": kind == "sd2"}),
        "vae": _random("vae", VAE),
    }
    text = modules["text_encoder"].state_dict()
    tensors = unet_to_ldm(modules["unet"].state_dict(), layers=2) | vae_to_ldm(modules["vae"].state_dict(), levels=2)
    tensors |= clip_to_ldm(text) if kind == "sd1" else clip_to_open_clip(text, layers=2)
    tensors["betas"] = torch.zeros(1000)
    tensors["model_ema.decay"] = torch.zeros(())
    folder = tmp_path_factory.mktemp(kind)
    path = folder / f"{kind}.safetensors"
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, path)
    torch.save({"state_dict": tensors}, folder / f"{kind}.ckpt")
    return kind, path, modules


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_components_compute_the_same(single: tuple[str, Path, dict[str, nn.Module]], suffix: str) -> None:
    kind, path, modules = single
    checkpoint = open_checkpoint(path.with_suffix(suffix))
    assert checkpoint.format == "single_file"
    assert checkpoint.context_dim == 128
    assert checkpoint.vae_scale_factor == 2
    assert checkpoint.prediction_type == ("epsilon" if kind == "sd1" else "v_prediction")
    assert any("v_prediction" in note for note in checkpoint.notes) == (kind == "sd2")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 600, (1, 77), generator=generator)
    latent, image = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 3, 16, 16, generator=generator)
    with torch.no_grad():
        context = modules["text_encoder"](ids).last_hidden_state
        assert torch.equal(load_model(checkpoint, "text_encoder")(ids).last_hidden_state, context)
        step = torch.tensor([500.0])
        expected = modules["unet"](latent, step, context).sample
        assert torch.equal(load_model(checkpoint, "unet")(latent, step, context).sample, expected)
        vae: Any = load_model(checkpoint, "vae")
        reference: Any = modules["vae"]
        assert torch.equal(vae.decode(latent).sample, reference.decode(latent).sample)
        assert torch.equal(vae.encode(image).latent_dist.parameters, reference.encode(image).latent_dist.parameters)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_some_weights_are_read_without_the_others(
    single: tuple[str, Path, dict[str, nn.Module]], suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path, _ = single
    checkpoint = open_checkpoint(path.with_suffix(suffix))
    read: list[str] = []
    original = arrays.read_array

    def spy(info: TensorInfo) -> NDArray[np.float32]:
        read.append(info.stored)
        return original(info)

    monkeypatch.setattr(arrays, "read_array", spy)
    for name, info in checkpoint.components.items():
        whole = load_model(checkpoint, name).state_dict()
        wanted = sorted(info.tensors)[::3]
        read.clear()
        found = dict(read_weights(checkpoint, name, wanted))
        assert sorted(found) == wanted
        assert all(torch.equal(tensor, whole[key]) for key, tensor in found.items())
        assert len(read) == (len(wanted) if suffix == ".safetensors" else 0)


def test_facts_match_the_source(single: tuple[str, Path, dict[str, nn.Module]]) -> None:
    _, path, modules = single
    checkpoint = open_checkpoint(path)
    for name, info in checkpoint.components.items():
        assert info.parameters == sum(parameter.numel() for parameter in modules[name].parameters())
        assert info.dtype == "float32"
        assert info.bytes == 4 * info.parameters


def test_tokenizer_is_asked_for_where_it_is_needed(
    single: tuple[str, Path, dict[str, nn.Module]], tmp_path: Path
) -> None:
    _, path, _ = single
    checkpoint = open_checkpoint(path)
    assert checkpoint.tokenizer_dir is None
    with pytest.raises(CheckpointError, match=r"needs the checkpoint's tokenizer.*Put a folder"):
        load_tokenizer(checkpoint)
    write_clip_tokenizer(tmp_path, ["a red circle"])
    with_tokenizer = open_checkpoint(path, tokenizer_dir=tmp_path)
    assert load_tokenizer(with_tokenizer).tokenize("red") == ["red</w>"]


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("conditioner.embedders.0.transformer.x", "Stable Diffusion XL"),
        ("model.diffusion_model.joint_blocks.0.x", "Stable Diffusion 3"),
        ("double_blocks.0.img_attn.x", "Flux"),
        ("control_model.input_blocks.0.0.weight", "ControlNet"),
        ("lora_unet_down.lora_up.weight", "LoRA"),
        ("blah.weight", "tensors such as blah.weight"),
    ],
)
def test_other_architectures_are_named(tmp_path: Path, name: str, meaning: str) -> None:
    path = tmp_path / "other.safetensors"
    save_file({name: torch.zeros(2, 2)}, path)
    with pytest.raises(UnsupportedError, match=meaning):
        open_checkpoint(path)


def test_one_component_of_a_folder_is_recognised(tiny_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="one component of a Diffusers checkpoint"):
        open_checkpoint(tiny_checkpoint / "unet" / "diffusion_pytorch_model.safetensors")


def test_a_file_without_vae_says_so(tmp_path: Path, single: tuple[str, Path, dict[str, nn.Module]]) -> None:
    from safetensors.torch import load_file

    tensors = {name: value for name, value in load_file(single[1]).items() if not name.startswith("first_stage")}
    save_file(tensors, tmp_path / "pruned.safetensors")
    with pytest.raises(CheckpointError, match="has no vae"):
        open_checkpoint(tmp_path / "pruned.safetensors")
