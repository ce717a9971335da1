"""What other tools leave in a checkpoint's names and values: every tensor is used, named in a note, or refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdmobile.checkpoints import load_model, open_checkpoint
from sdmobile.errors import CheckpointError, SdmobileError, UnsupportedError
from tests.checkpoints.single import REGULAR, Tensors, tensors_of, write_single
from tests.synthetic import write_checkpoint

UNET = "model.diffusion_model."
ATTENTION = "first_stage_model.encoder.mid.attn_1."
UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("regular") / "tiny", changes=REGULAR)


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def same_as(tiny_checkpoint: Path, path: Path, *models: str) -> bool:
    """Whether the loaded weights of a checkpoint are those of the folder that it was made from."""
    ours, theirs = open_checkpoint(path), open_checkpoint(tiny_checkpoint)
    pairs = ((load_model(ours, name).state_dict(), load_model(theirs, name).state_dict()) for name in models)
    return all(torch.equal(mine[key], value) for mine, reference in pairs for key, value in reference.items())


def changed(folder: Path, path: Path, change: Callable[[Tensors], object]) -> Path:
    return write_single(folder, path / "m.safetensors", change)


# -- every tensor of a single file


@pytest.mark.parametrize("name", ["time_embed.extra_proj.weight", "input_blocks.0.0.scale", "new_block.weight"])
def test_a_tensor_that_the_model_does_not_use_is_refused(tiny_checkpoint: Path, tmp_path: Path, name: str) -> None:
    path = changed(tiny_checkpoint, tmp_path, lambda tensors: tensors.update({UNET + name: torch.zeros(32, 256)}))
    with pytest.raises(UnsupportedError, match=f"unet must have no weights that .* does not use.*{name}"):
        open_checkpoint(path)


def test_the_guidance_embedding_is_another_family(tiny_checkpoint: Path, tmp_path: Path) -> None:
    name = UNET + "time_embed.cond_proj.weight"
    path = changed(tiny_checkpoint, tmp_path, lambda tensors: tensors.update({name: torch.zeros(32, 256)}))
    assert open_checkpoint(path).family.name == "latent-consistency"


def test_tensors_of_no_model_are_named_in_a_note(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def add(tensors: Tensors) -> None:
        tensors |= {"betas": torch.zeros(9), "first_stage_model.loss.logvar": torch.zeros(()), "t5.w": torch.ones(2)}

    notes = open_checkpoint(changed(tiny_checkpoint, tmp_path, add)).notes
    assert "the file: 2 tensors belong to none of the models: betas, t5.w" in notes
    assert "vae: 1 tensors are not used: part of the loss in training" in notes


@pytest.mark.parametrize("kept", [23, 24])
def test_the_last_of_openclips_blocks_is_dropped_only_where_it_is(
    tiny_checkpoint: Path, tmp_path: Path, kept: int
) -> None:
    """Stable Diffusion 2.x uses 23 of 24; files that went through Diffusers have lost the last one already."""
    prefix = "cond_stage_model.model.transformer.resblocks."
    tensors = tensors_of(tiny_checkpoint, open_clip=True)
    block = {name: value for name, value in tensors.items() if name.startswith(prefix + "1.")}
    for number in range(2, kept):
        tensors |= {name.replace(f"{prefix}1.", f"{prefix}{number}."): value for name, value in block.items()}
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, tmp_path / "m.safetensors")
    checkpoint = open_checkpoint(tmp_path / "m.safetensors")
    assert checkpoint.components["text_encoder"].config["num_hidden_layers"] == 23
    load_model(checkpoint, "text_encoder")
    assert any("the last block" in note for note in checkpoint.notes) is (kept == 24)
    assert any("CLIP compares" in note for note in checkpoint.notes)


# -- what a file says about its prediction


@pytest.mark.parametrize(
    ("yaml", "marks", "given", "expected"),
    [
        ('  params:\n    parameterization: "v"\n    linear_start: 0.00085\n', (), None, "v_prediction"),
        ("  params:\n    parameterization: eps\n", ("v_pred",), None, "epsilon"),
        (None, ("v_pred",), None, "v_prediction"),
        (None, ("v_pred",), "epsilon", "epsilon"),
        (None, (), "v_prediction", "v_prediction"),
        (None, (), None, "epsilon"),
    ],
)
def test_what_the_unet_predicts_is_read_wherever_it_is_said(
    tiny_checkpoint: Path, tmp_path: Path, yaml: str | None, marks: tuple[str, ...], given: str | None, expected: str
) -> None:
    path = changed(tiny_checkpoint, tmp_path, lambda tensors: tensors.update(dict.fromkeys(marks, torch.zeros(0))))
    if yaml is not None:
        path.with_suffix(".yaml").write_text(f"model:\n{yaml}")
    checkpoint = open_checkpoint(path, prediction_type=given)
    assert checkpoint.prediction_type == expected
    assert checkpoint.scheduler_config["prediction_type"] == expected
    silent = yaml is None and not marks and given is None
    assert any("does not say what the UNet predicts" in note for note in checkpoint.notes) is silent


def test_training_to_zero_signal_is_sampled_from_there(tiny_checkpoint: Path, tmp_path: Path) -> None:
    marks: dict[str, Any] = dict.fromkeys(("v_pred", "ztsnr"), torch.zeros(0))
    config = open_checkpoint(changed(tiny_checkpoint, tmp_path, lambda tensors: tensors.update(marks))).scheduler_config
    assert (config["prediction_type"], config["rescale_betas_zero_snr"]) == ("v_prediction", True)
    assert config["timestep_spacing"] == "trailing"


# -- names and values that other tools leave


def _diffusers_attention(tensors: Tensors) -> None:
    for part in ("encoder", "decoder"):
        prefix = f"first_stage_model.{part}.mid.attn_1."
        for old, new in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0"), ("norm", "group_norm")):
            for kind in ("weight", "bias"):
                value = tensors.pop(f"{prefix}{old}.{kind}")
                tensors[f"{prefix}{new}.{kind}"] = value[:, :, 0, 0] if value.dim() == 4 else value


def _prefixed(prefix: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[prefix + name] = tensors.pop(name)

    return change


def _compiled(tensors: Tensors) -> None:
    for name in [name for name in tensors if name.startswith(UNET)]:
        tensors[name.replace(UNET, UNET + "_orig_mod.")] = tensors.pop(name)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (_diffusers_attention, None),
        (_prefixed("module."), "parallel training"),
        (_compiled, "torch.compile"),
    ],
    ids=["attn_1.to_q", "module", "compiled"],
)
def test_other_names_give_the_same_weights(
    tiny_checkpoint: Path, tmp_path: Path, change: Callable[[Tensors], None], note: str | None
) -> None:
    path = changed(tiny_checkpoint, tmp_path, change)
    assert same_as(tiny_checkpoint, path, "unet", "vae", "text_encoder")
    assert note is None or any(note in line for line in open_checkpoint(path).notes)


@pytest.mark.parametrize("rows", [False, True], ids=["one scale", "a scale per row"])
def test_scaled_fp8_is_multiplied_out(copy: Path, rows: bool) -> None:
    tensors = load_file(copy / UNET_FILE)
    weight = tensors["mid_block.resnets.0.conv1.weight"].float()
    top = weight.abs().amax(dim=(1, 2, 3)) if rows else weight.abs().max()
    scale = top / 448.0
    stored = (weight / scale.reshape(-1, 1, 1, 1)).to(torch.float8_e4m3fn)
    tensors["mid_block.resnets.0.conv1.weight"] = stored
    tensors["mid_block.resnets.0.conv1.scale_weight"] = scale
    tensors["scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
    save_file(tensors, copy / UNET_FILE)
    checkpoint = open_checkpoint(copy)
    assert any("fp8 with a scale each" in note for note in checkpoint.notes)
    loaded = load_model(checkpoint, "unet").state_dict()["mid_block.resnets.0.conv1.weight"]
    assert torch.equal(loaded, stored.float() * scale.reshape(-1, 1, 1, 1))
    # e4m3 has three bits behind the point: at most 1/16 of a value, or of the smallest step, is lost.
    assert torch.allclose(loaded, weight, rtol=2**-4, atol=float(scale.max()) * 2**-10)


def test_a_scale_of_another_size_is_refused(copy: Path) -> None:
    tensors = load_file(copy / UNET_FILE)
    tensors["conv_in.scale_weight"] = torch.ones(7)
    save_file(tensors, copy / UNET_FILE)
    with pytest.raises(CheckpointError, match=r"conv_in\.scale_weight is \(7,\)"):
        open_checkpoint(copy)


@pytest.mark.parametrize("name", ["to_q.base_layer.weight", "to_q.lora_A.default.weight"])
def test_adapters_that_were_not_fused_are_refused_with_what_to_do(copy: Path, name: str) -> None:
    tensors = load_file(copy / UNET_FILE)
    save_file(tensors | {f"mid_block.attentions.0.{name}": torch.zeros(4, 4)}, copy / UNET_FILE)
    with pytest.raises(UnsupportedError, match=r"must be fused.*fuse_lora"):
        open_checkpoint(copy)


def test_integers_are_no_weights(copy: Path) -> None:
    tensors = load_file(copy / UNET_FILE)
    tensors["conv_in.weight"] = tensors["conv_in.weight"].to(torch.int16)
    save_file(tensors, copy / UNET_FILE)
    with pytest.raises(SdmobileError, match=r"conv_in\.weight is int16") as refused:
        load_model(open_checkpoint(copy), "unet")
    assert refused.value.exit_code == 4


def test_a_tensor_that_is_stored_twice_is_refused(copy: Path) -> None:
    tensors = load_file(copy / UNET_FILE)
    save_file(tensors | {"_orig_mod.conv_in.bias": torch.ones(32)}, copy / UNET_FILE)
    with pytest.raises(CheckpointError, match=r"conv_in\.bias is twice"):
        open_checkpoint(copy)


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (("bf16",), "bf16"),
        (("bf16", "fp16"), "fp16"),
        (("bf16", ""), ""),
        (("non_ema", "bf16"), "bf16"),
        (("non_ema",), "non_ema"),
    ],
)
def test_variants_are_taken_by_precision(copy: Path, there: tuple[str, ...], taken: str) -> None:
    tensors = load_file(copy / UNET_FILE)
    (copy / UNET_FILE).unlink()
    for variant in there:
        middle = f".{variant}" if variant else ""
        save_file(tensors, copy / f"unet/diffusion_pytorch_model{middle}.safetensors")
    checkpoint = open_checkpoint(copy)
    end = f".{taken}.safetensors" if taken else "model.safetensors"
    assert checkpoint.components["unet"].weight_files[0].name.endswith(end)
    assert any(f"{taken} is used" in note for note in checkpoint.notes) is bool(taken)


@pytest.mark.parametrize("factor", [float("inf"), float("nan"), 0, -1.0, "0.18", True])
def test_a_scaling_factor_that_is_no_factor_is_refused(copy: Path, factor: object) -> None:
    import json

    config = copy / "vae/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "scaling_factor": factor}))
    with pytest.raises(CheckpointError, match="scaling_factor of the VAE must be a finite number"):
        open_checkpoint(copy)


# -- pickles


class Foreign:
    """Stands for a class of Lightning: importing it when the file is read would leave a trace."""

    def __init__(self) -> None:
        self.best_model_path = "/somewhere"


class Bomb:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def canary(path: str) -> None:
    """Would be called if anything of the file were executed."""
    Path(path).write_text("executed")


def test_a_lightning_checkpoint_gives_its_tensors_and_runs_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    import numpy as np

    mark = tmp_path / "executed"
    path = tmp_path / "m.ckpt"
    extra = {
        "callbacks": {"ModelCheckpoint": Foreign(), "best": np.float64(0.5)},
        "hyper_parameters": Bomb(canary, str(mark)),
        "loops": [np.arange(3), {Foreign: 1}],
    }
    torch.save({"state_dict": tensors_of(tiny_checkpoint), "epoch": 3, **extra}, path)
    assert same_as(tiny_checkpoint, path, "unet", "vae", "text_encoder")
    assert not mark.exists()
    note = next(note for note in open_checkpoint(path).notes if "skipped, not run" in note)
    assert f"{__name__}.Foreign" in note


@pytest.mark.parametrize("function", ["os.system", "posix.system", "builtins.eval", "subprocess.Popen"])
def test_a_pickle_that_would_do_harm_is_refused(tiny_checkpoint: Path, tmp_path: Path, function: str) -> None:
    import importlib

    module, _, name = function.rpartition(".")
    bomb = Bomb(getattr(importlib.import_module(module), name), f"touch {tmp_path / 'executed'}")
    torch.save({"state_dict": tensors_of(tiny_checkpoint), "x": bomb}, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match=r"its code is never executed.*asks for"):
        open_checkpoint(tmp_path / "m.ckpt")
    assert not (tmp_path / "executed").exists()


def test_a_program_is_no_checkpoint(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/constants.pkl", b"")
        archive.writestr("m/data.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript program"):
        open_checkpoint(tmp_path / "m.pt")


# -- files


@pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json", "model_index.json"])
def test_pipes_and_endless_files_are_refused_at_once(copy: Path, name: str) -> None:
    import os

    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(CheckpointError):
        open_checkpoint(copy)
    (copy / name).unlink()
    (copy / name).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError):
        open_checkpoint(copy)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a file of Linux")
@pytest.mark.parametrize("name", ["scheduler/scheduler_config.json", "text_encoder/model.safetensors"])
def test_a_file_that_says_it_has_no_bytes_is_not_read(copy: Path, name: str) -> None:
    """Some files of the system are never at their end: `/proc/kmsg`."""
    (copy / name).unlink()
    (copy / name).symlink_to("/proc/self/status")
    with pytest.raises(CheckpointError, match="must not be empty"):
        open_checkpoint(copy)


@pytest.mark.parametrize("size", [0, 64_000_001])
def test_a_vocabulary_is_hashed_only_if_it_can_be_one(copy: Path, size: int) -> None:
    """A sparse file of a tebibyte would be read for an hour."""
    with (copy / "tokenizer/vocab.json").open("wb") as stream:
        stream.truncate(size)
    checkpoint = open_checkpoint(copy)
    with pytest.raises(CheckpointError, match="must not be empty" if size == 0 else "has at most 64 MB"):
        _ = checkpoint.content_hash


def test_a_huge_configuration_is_refused_unread(copy: Path) -> None:
    with (copy / "unet/config.json").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(CheckpointError, match="has at most 64 MB"):
        open_checkpoint(copy)


def test_an_attention_that_would_be_fetched_is_refused(copy: Path) -> None:
    import json

    config = copy / "text_encoder/config.json"
    stated = json.loads(config.read_text())
    config.write_text(json.dumps({**stated, "attn_implementation": "kernels-community/x"}))
    with pytest.raises(UnsupportedError, match="must be eager or sdpa: nothing is fetched: kernels-community/x"):
        open_checkpoint(copy)
    config.write_text(json.dumps({**stated, "attn_implementation": "eager"}))
    load_model(open_checkpoint(copy), "text_encoder")
