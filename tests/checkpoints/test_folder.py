"""Diffusers folders: facts, corrections, and every way in which a folder can be wrong."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdmobile.checkpoints import load_model, load_tokenizer, open_checkpoint
from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families.schedulers import scheduler_from_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def _edit(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text())
    value.update(changes)
    path.write_text(json.dumps({key: item for key, item in value.items() if item != "DELETE"}))


def _edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_facts(tiny_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint)
    assert checkpoint.format == "diffusers"
    assert (checkpoint.latent_channels, checkpoint.latent_size, checkpoint.vae_scale_factor) == (4, (16, 16), 2)
    assert (checkpoint.image_size, checkpoint.context_length, checkpoint.context_dim) == ((32, 32), 77, 32)
    assert (checkpoint.prediction_type, checkpoint.scaling_factor, checkpoint.notes) == ("epsilon", 0.18215, ())
    for name, info in checkpoint.components.items():
        module = load_model(checkpoint, name)  # type: ignore[arg-type]
        assert info.parameters == sum(parameter.numel() for parameter in module.parameters())
        assert info.dtype == "float16"
        assert all(parameter.dtype == torch.float32 for parameter in module.parameters())
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_same_numbers_as_diffusers(tiny_checkpoint: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel

    checkpoint = open_checkpoint(tiny_checkpoint)
    ids = torch.arange(77)[None]
    text: Any = CLIPTextModel.from_pretrained(str(tiny_checkpoint / "text_encoder"), dtype=torch.float32)
    options: dict[str, Any] = {"torch_dtype": torch.float32, "low_cpu_mem_usage": False}
    unet: Any = UNet2DConditionModel.from_pretrained(str(tiny_checkpoint / "unet"), **options)
    vae: Any = AutoencoderKL.from_pretrained(str(tiny_checkpoint / "vae"), **options)
    latent, step = torch.randn(1, 4, 16, 16), torch.tensor([981.0])
    with torch.no_grad():
        context = text(ids).last_hidden_state
        assert torch.equal(load_model(checkpoint, "text_encoder")(ids).last_hidden_state, context)
        expected = unet(latent, step, context).sample
        assert torch.equal(load_model(checkpoint, "unet")(latent, step, context).sample, expected)
        ours: Any = load_model(checkpoint, "vae")
        assert torch.equal(ours.decode(latent).sample, vae.decode(latent).sample)


def test_hash_depends_on_content_not_on_place(tiny_checkpoint: Path, copy: Path) -> None:
    original = open_checkpoint(tiny_checkpoint).content_hash
    assert open_checkpoint(copy).content_hash == original
    (copy / "README.md").write_text("anything")
    assert open_checkpoint(copy).content_hash == original
    _edit_tensors(copy / UNET_FILE, lambda tensors: tensors["conv_in.bias"].add_(1))
    assert open_checkpoint(copy).content_hash != original


def test_license_is_read_from_the_model_card(copy: Path) -> None:
    (copy / "README.md").write_text("---\ntags:\n- x\nlicense: creativeml-openrail-m\n---\n# Title\n")
    assert open_checkpoint(copy).license == "creativeml-openrail-m"


def test_config_that_contradicts_the_tensors_is_corrected(copy: Path) -> None:
    _edit(copy / "unet/config.json", cross_attention_dim=768, block_out_channels=[320, 640], layers_per_block=2)
    _edit(copy / "text_encoder/config.json", vocab_size=49408, hidden_size=768)
    _edit(copy / "vae/config.json", latent_channels=16)
    checkpoint = open_checkpoint(copy)
    assert len(checkpoint.notes) == 6
    assert "unet: config says cross_attention_dim = 768, the tensors say 32; the tensors were used" in checkpoint.notes
    assert checkpoint.latent_channels == 4
    for name in checkpoint.components:
        load_model(checkpoint, name)  # type: ignore[arg-type]


def test_missing_statements_are_assumed_and_noted(copy: Path) -> None:
    _edit(copy / "scheduler/scheduler_config.json", prediction_type="DELETE")
    _edit(copy / "vae/config.json", scaling_factor="DELETE")
    _edit(copy / "unet/config.json", sample_size="DELETE")
    checkpoint = open_checkpoint(copy)
    assert (checkpoint.prediction_type, checkpoint.scaling_factor, checkpoint.latent_size) == (
        "epsilon",
        0.18215,
        (16, 16),
    )
    assert len(checkpoint.notes) == 3


def test_shards_are_read(copy: Path) -> None:
    tensors = load_file(copy / UNET_FILE)
    names = sorted(tensors)
    parts = {"a-00001.safetensors": names[::2], "a-00002.safetensors": names[1::2]}
    for file, members in parts.items():
        save_file({name: tensors[name] for name in members}, copy / "unet" / file)
    weight_map = {name: file for file, members in parts.items() for name in members}
    index = copy / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    reference = load_model(open_checkpoint(copy), "unet").state_dict()
    (copy / UNET_FILE).unlink()
    loaded = load_model(open_checkpoint(copy), "unet").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in reference.items())
    (copy / "unet/a-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="every shard"):
        open_checkpoint(copy)


def test_old_vae_attention_names_and_shapes(copy: Path) -> None:
    reference = load_model(open_checkpoint(copy), "vae").state_dict()
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "attentions" in name]:
            for new, old in names.items():
                if f".{new}." in name:
                    value = tensors.pop(name)
                    tensors[name.replace(new, old)] = value[:, :, None, None].clone() if value.dim() == 2 else value

    _edit_tensors(copy / "vae/diffusion_pytorch_model.safetensors", rename)
    loaded = load_model(open_checkpoint(copy), "vae").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in reference.items())


def test_pickled_weights_are_loaded_without_running_code(copy: Path) -> None:
    reference = load_model(open_checkpoint(copy), "unet").state_dict()
    tensors = load_file(copy / UNET_FILE)
    (copy / UNET_FILE).unlink()
    torch.save(tensors, copy / "unet/diffusion_pytorch_model.bin")
    checkpoint = open_checkpoint(copy)
    assert checkpoint.components["unet"].parameters == sum(value.numel() for value in tensors.values())
    loaded = load_model(checkpoint, "unet").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in reference.items())


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.path.write_text, ("executed",))


def test_pickled_code_is_refused_and_not_run(copy: Path, tmp_path: Path) -> None:
    (copy / UNET_FILE).unlink()
    mark = tmp_path / "mark"
    torch.save({"conv_in.weight": _Bomb(mark)}, copy / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="never executed"):
        open_checkpoint(copy)
    assert not mark.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights_are_named(copy: Path, value: float) -> None:
    _edit_tensors(copy / UNET_FILE, lambda tensors: tensors["conv_in.weight"].view(-1)[:3].fill_(value))
    with pytest.raises(CheckpointError, match=r"unet: 3 of 1152 values of conv_in\.weight are NaN or infinite"):
        load_model(open_checkpoint(copy), "unet")


def test_a_missing_weight_is_named(copy: Path) -> None:
    _edit_tensors(copy / UNET_FILE, lambda tensors: tensors.pop("mid_block.resnets.0.conv1.bias"))
    with pytest.raises(CheckpointError, match=r"1 missing, among them mid_block\.resnets\.0\.conv1\.bias"):
        load_model(open_checkpoint(copy), "unet")


def test_an_unknown_weight_is_named(copy: Path) -> None:
    _edit_tensors(copy / UNET_FILE, lambda tensors: tensors.update(surprise=torch.zeros(1)))
    with pytest.raises(CheckpointError, match="1 unknown, among them surprise"):
        load_model(open_checkpoint(copy), "unet")


def test_a_wrong_shape_is_named(copy: Path) -> None:
    _edit_tensors(copy / UNET_FILE, lambda tensors: tensors.update({"conv_norm_out.bias": torch.zeros(7)}))
    with pytest.raises(CheckpointError, match=r"conv_norm_out\.bias is \(7,\), expected \(32,\)"):
        load_model(open_checkpoint(copy), "unet")


def _empty_index(weights: Path) -> None:
    weights.unlink()
    weights.with_name(f"{weights.name}.index.json").write_text('{"weight_map": {}}')


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


BROKEN: list[tuple[str, Callable[[Path], object], str]] = [
    ("model_index", lambda path: (path / "model_index.json").unlink(), "must hold model_index.json"),
    ("index json", lambda path: (path / "model_index.json").write_text("{"), "must be JSON"),
    ("config json", lambda path: (path / "unet/config.json").write_text('{"a": '), "must be JSON"),
    ("config list", lambda path: (path / "unet/config.json").write_text("[]"), "must be a JSON object"),
    ("config empty", lambda path: (path / "unet/config.json").write_text(""), "must not be empty"),
    ("no config", lambda path: (path / "unet/config.json").unlink(), "must be readable"),
    ("no weights", lambda path: (path / UNET_FILE).unlink(), "must hold weights"),
    ("no folder", lambda path: shutil.rmtree(path / "vae"), "folder of every component"),
    ("no scheduler", lambda path: shutil.rmtree(path / "scheduler"), "must be readable"),
    ("truncated", lambda path: _truncate(path / UNET_FILE), "must not be truncated"),
    ("zero", lambda path: (path / UNET_FILE).write_bytes(b""), "has 0 bytes"),
    ("empty index", lambda path: _empty_index(path / UNET_FILE), "names none"),
    ("garbage", lambda path: (path / UNET_FILE).write_bytes(b"garbage" * 99), "does not begin with a safetensors"),
    ("lfs", lambda path: (path / UNET_FILE).write_text("version https://git-lfs.github.com/spec/v1\n"), "lfs pull"),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_broken_folders(copy: Path, change: Callable[[Path], object], message: str) -> None:
    change(copy)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(copy)


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"must exist.*a Hub name: owner/name"):
        open_checkpoint(tmp_path / "runwayml" / "stable-diffusion-v1-5")


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="must be a Diffusers folder or"):
        open_checkpoint(tmp_path / "model.gguf")


INDEX = "model_index.json"
UNSUPPORTED: list[tuple[str, str, dict[str, Any], str]] = [
    ("sd3", INDEX, {"transformer": ["diffusers", "SD3Transformer2DModel"]}, "transformer = SD3Transformer2DModel"),
    ("flux", INDEX, {"_class_name": "FluxPipeline", "unet": "DELETE"}, "FluxPipeline has no unet"),
    ("controlnet", INDEX, {"controlnet": ["diffusers", "ControlNetModel"]}, "controlnet = ControlNetModel"),
    ("kandinsky", INDEX, {"vae": ["diffusers", "VQModel"]}, "vae = VQModel"),
    ("t5", INDEX, {"text_encoder": ["transformers", "T5EncoderModel"]}, "text_encoder = T5EncoderModel"),
    ("tiny vae", INDEX, {"vae": ["diffusers", "AutoencoderTiny"]}, "must say decoder_block_out_channels"),
    ("sdxl unet", "unet/config.json", {"addition_embed_type": "text_time"}, "SDXL"),
    ("shift", "vae/config.json", {"shift_factor": 0.1}, "shifted latents"),
    ("prediction", "scheduler/scheduler_config.json", {"prediction_type": "flow"}, "prediction type.*flow"),
]


@pytest.mark.parametrize(
    ("file", "changes", "message"), [case[1:] for case in UNSUPPORTED], ids=[c[0] for c in UNSUPPORTED]
)
def test_unsupported_architectures_are_named(copy: Path, file: str, changes: dict[str, Any], message: str) -> None:
    _edit(copy / file, **changes)
    with pytest.raises(UnsupportedError, match=message):
        open_checkpoint(copy)


def test_an_inpainting_unet_is_named(copy: Path) -> None:
    _edit_tensors(copy / UNET_FILE, lambda tensors: tensors.update({"conv_in.weight": torch.zeros(32, 9, 3, 3)}))
    with pytest.raises(UnsupportedError, match=r"9 input channels for 4 latent channels \(inpainting"):
        open_checkpoint(copy)


def test_components_that_do_not_fit_are_refused(copy: Path) -> None:
    def widen(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "attn2.to_k" in name or "attn2.to_v" in name]:
            tensors[name] = torch.zeros(tensors[name].shape[0], 48)

    _edit_tensors(copy / UNET_FILE, widen)
    with pytest.raises(CheckpointError, match="UNet 48, text encoder 32"):
        open_checkpoint(copy)


def test_schedulers(tiny_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint)
    assert type(scheduler_from_config(checkpoint.scheduler_config)).__name__ == "PNDMScheduler"
    for name, cls in (
        ("ddim", "DDIMScheduler"),
        ("dpm++", "DPMSolverMultistepScheduler"),
        ("euler", "EulerDiscreteScheduler"),
    ):
        scheduler = scheduler_from_config(checkpoint.scheduler_config, name)
        assert type(scheduler).__name__ == cls
        assert (scheduler.config.beta_start, scheduler.config.beta_schedule) == (0.00085, "scaled_linear")
    with pytest.raises(UnsupportedError, match=r"unknown scheduler: magic.*ddim"):
        scheduler_from_config(checkpoint.scheduler_config, "magic")


def test_tokenizer_files_must_be_there(copy: Path) -> None:
    checkpoint = open_checkpoint(copy)
    assert load_tokenizer(checkpoint).model_max_length == 77
    (copy / "tokenizer/merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"merges\.txt"):
        load_tokenizer(checkpoint)
