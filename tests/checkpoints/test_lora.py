"""LoRA files: fused as Diffusers and PEFT fuse them, part of what a checkpoint is, refused where a key has no use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from sdmobile.checkpoints import Changes, LoraFile, load_model, open_checkpoint
from sdmobile.cli.app import app
from sdmobile.errors import CheckpointError, UsageError
from sdmobile.reference.resolve import resolve_reference
from tests.families.tiny import write_tiny
from tests.in_process import exports_in_this_process

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"


def _pipeline(folder: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(str(folder), torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _randomise(module: Any) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def _layers(module: Any) -> dict[str, Any]:
    from peft import get_peft_model_state_dict

    return {name: value.detach().contiguous() for name, value in get_peft_model_state_dict(module).items()}


@pytest.fixture(scope="module")
def diffusers_lora(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `save_lora_weights` writes: UNet and text encoder, ranks and alphas of their own, with metadata."""
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig

    pipeline = _pipeline(tiny_checkpoint)
    targets = [*ATTENTION, "conv1", "proj_in", "ff.net.2"]
    alphas = {f"{BLOCK}.to_q": 9}
    pipeline.unet.add_adapter(LoraConfig(r=4, lora_alpha=6, target_modules=targets, alpha_pattern=alphas))
    text = LoraConfig(r=2, lora_alpha=1, target_modules=["q_proj", "fc1"], use_rslora=True)
    pipeline.text_encoder.add_adapter(text)
    _randomise(pipeline.unet)
    _randomise(pipeline.text_encoder)
    folder = tmp_path_factory.mktemp("lora")
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=_layers(pipeline.unet),
        text_encoder_lora_layers=_layers(pipeline.text_encoder),
        unet_lora_adapter_metadata=_config(pipeline.unet),
        text_encoder_lora_adapter_metadata=_config(pipeline.text_encoder),
    )
    return folder / "pytorch_lora_weights.safetensors"


def _config(module: Any) -> dict[str, Any]:
    return {k: sorted(v) if isinstance(v, set) else v for k, v in module.peft_config["default"].to_dict().items()}


def _fused(folder: Path, lora: Path, scale: float) -> dict[str, dict[str, torch.Tensor]]:
    """Returns the weights that Diffusers makes of a checkpoint and a LoRA."""
    pipeline = _pipeline(folder)
    pipeline.load_lora_weights(str(lora.parent), weight_name=lora.name)
    pipeline.fuse_lora(lora_scale=scale)
    pipeline.unload_lora_weights()
    return {name: getattr(pipeline, name).state_dict() for name in ("unet", "text_encoder")}


def _compare(folder: Path, file: LoraFile, fused: Mapping[str, Mapping[str, torch.Tensor]]) -> int:
    """Compares every weight of UNet and text encoder; returns how many differ from the plain checkpoint's."""
    plain, ours = open_checkpoint(folder), open_checkpoint(folder, changes=Changes((file,)))
    changed = 0
    for name in ("unet", "text_encoder"):
        before, after = (load_model(checkpoint, name).state_dict() for checkpoint in (plain, ours))
        wanted = {key.removeprefix("text_model."): value for key, value in fused[name].items()}
        for key, value in after.items():
            torch.testing.assert_close(value, wanted[key], rtol=1e-5, atol=1e-6)
            changed += not torch.equal(value, before[key])
    return changed


@pytest.mark.parametrize("scale", [1.0, -0.7])
def test_weights_are_those_that_diffusers_fuses(tiny_checkpoint: Path, diffusers_lora: Path, scale: float) -> None:
    changed = _compare(tiny_checkpoint, LoraFile(diffusers_lora, scale), _fused(tiny_checkpoint, diffusers_lora, scale))
    layers = open_checkpoint(tiny_checkpoint, changes=Changes((LoraFile(diffusers_lora),))).loras[0].layers
    assert changed == len(layers) == len(load_file(diffusers_lora)) // 2
    assert {layer.model for layer in layers} == {"unet", "text_encoder"}
    ranked = {layer.weight: layer.factor for layer in layers}
    assert ranked[f"{BLOCK}.to_q.weight"] == 9 / 4
    assert ranked[f"{BLOCK}.to_k.weight"] == 6 / 4
    assert ranked["encoder.layers.0.self_attn.q_proj.weight"] == pytest.approx(2**-0.5)


def test_a_file_without_prefix_or_metadata_is_of_the_unet_with_alpha_r(
    tiny_checkpoint: Path, diffusers_lora: Path, tmp_path: Path
) -> None:
    whole = load_file(diffusers_lora)
    bare = {name.removeprefix("unet."): value for name, value in whole.items() if name.startswith("unet.")}
    save_file(bare, tmp_path / "bare.safetensors")
    save_file({f"unet.{name}": value for name, value in bare.items()}, tmp_path / "named.safetensors")
    fused = _fused(tiny_checkpoint, tmp_path / "named.safetensors", 1.0)
    for name in ("bare", "named"):
        assert _compare(tiny_checkpoint, LoraFile(tmp_path / f"{name}.safetensors"), fused) == len(bare) // 2


def _kohya(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the tensors under kohya's names, each pair with an alpha of its own."""
    starts = {"unet.": "lora_unet_", "text_encoder.": "lora_te_text_model_"}
    ends = {".lora_A.weight": ".lora_down.weight", ".lora_B.weight": ".lora_up.weight"}
    renamed: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        prefix = next(start for start in starts if name.startswith(start))
        end = next(end for end in ends if name.endswith(end))
        module = name.removeprefix(prefix).removesuffix(end).removeprefix("text_model.")
        base = starts[prefix] + module.replace(".", "_")
        renamed[base + ends[end]] = value.half()
        renamed[base + ".alpha"] = torch.tensor(1.0 + len(base) % 3)
    return renamed


def test_kohyas_names_and_alphas(tiny_checkpoint: Path, diffusers_lora: Path, tmp_path: Path) -> None:
    file = tmp_path / "kohya.safetensors"
    tensors = _kohya(load_file(diffusers_lora))
    save_file(tensors, file)
    opened = open_checkpoint(tiny_checkpoint, changes=Changes((LoraFile(file, 0.5),)))
    assert len(opened.loras[0].layers) == len(tensors) // 3
    plain = open_checkpoint(tiny_checkpoint)
    ours, before = (load_model(checkpoint, "unet").state_dict() for checkpoint in (opened, plain))
    for layer in opened.loras[0].layers:
        base = layer.parts["lora_down"].stored.partition(".")[0]
        down, up = (tensors[f"{base}.lora_{way}.weight"].float() for way in ("down", "up"))
        assert layer.factor == 0.5 * float(tensors[f"{base}.alpha"]) / down.shape[0]
        if layer.model == "unet":
            assert base == "lora_unet_" + layer.weight.removesuffix(".weight").replace(".", "_")
            change = layer.factor * torch.einsum("or,rk->ok", up.flatten(1), down.flatten(1))
            torch.testing.assert_close(
                ours[layer.weight], before[layer.weight] + change.reshape(ours[layer.weight].shape)
            )


def test_kohyas_file_of_one_alpha_is_fused_as_by_diffusers(
    tiny_checkpoint: Path, diffusers_lora: Path, tmp_path: Path
) -> None:
    """Attention of the UNet: what Diffusers reads of kohya's names with any number of alphas."""
    whole = {k: v for k, v in load_file(diffusers_lora).items() if any(f".{name}." in k for name in ATTENTION)}
    tensors = {k: torch.tensor(3.0) if k.endswith("alpha") else v for k, v in _kohya(whole).items()}
    save_file(tensors, tmp_path / "kohya.safetensors")
    fused = _fused(tiny_checkpoint, tmp_path / "kohya.safetensors", 0.8)
    assert _compare(tiny_checkpoint, LoraFile(tmp_path / "kohya.safetensors", 0.8), fused) == len(tensors) // 3


def test_a_mobile_unet_is_changed_as_by_peft(tmp_path: Path) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    folder = write_tiny("mobile-diffusion", tmp_path / "tiny")
    unet: Any = load_model(open_checkpoint(folder), "unet")
    inject_adapter_in_model(LoraConfig(r=3, lora_alpha=6, target_modules=ATTENTION), unet)
    _randomise(unet)
    save_file({f"unet.{k}": v for k, v in _layers(unet).items()}, tmp_path / "lora.safetensors")
    inputs = (torch.randn(1, 4, 16, 16), torch.tensor([7]), torch.randn(1, 5, 32))
    opened = open_checkpoint(
        folder, changes=Changes((LoraFile(tmp_path / "lora.safetensors", 2.0),))
    )  # without metadata alpha is r
    with torch.no_grad():
        given, wanted = (net(*inputs, return_dict=False)[0] for net in (load_model(opened, "unet"), unet))
        plain = load_model(open_checkpoint(folder), "unet")(*inputs, return_dict=False)[0]
    torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-5)
    assert float((plain - wanted).abs().max()) > 1e-3


def test_bytes_scale_and_order_make_another_checkpoint(
    tiny_checkpoint: Path, diffusers_lora: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.safetensors"
    save_file({name: value * 2 for name, value in load_file(diffusers_lora).items()}, other)
    copied = tmp_path / "renamed.safetensors"
    copied.write_bytes(diffusers_lora.read_bytes())
    one, half, two = LoraFile(diffusers_lora), LoraFile(diffusers_lora, 0.5), LoraFile(other)
    choices = ([], [one], [half], [two], [one, two], [two, one])
    hashes = [open_checkpoint(tiny_checkpoint, changes=Changes(tuple(files))).content_hash for files in choices]
    assert len(set(hashes)) == len(hashes)
    assert open_checkpoint(tiny_checkpoint, changes=Changes((LoraFile(copied),))).content_hash == hashes[1]


def _damaged(whole: dict[str, torch.Tensor], what: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    name = f"unet.{BLOCK}.to_q.lora_A.weight"
    tensors, metadata = dict(whole), {}
    if what == "a key of another model":
        tensors["text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"] = torch.ones(2, 8)
    elif what == "no layer":
        tensors["unet.down_blocks.7.attentions.0.to_q.lora_A.weight"] = torch.ones(2, 8)
        tensors["unet.down_blocks.7.attentions.0.to_q.lora_B.weight"] = torch.ones(8, 2)
    elif what == "half a pair":
        del tensors[name.replace("_A", "_B")]
    elif what == "DoRA":
        tensors[name.replace("lora_A.weight", "lora_magnitude_vector")] = torch.ones(32)
    elif what == "another width":
        tensors[name] = torch.ones(4, 31)
    elif what == "another rank":
        tensors[name] = torch.ones(5, 32)
    elif what == "integers":
        tensors[name] = torch.ones(4, 32, dtype=torch.int8)
    elif what == "a bias":
        tensors[name.replace("_A.weight", "_B.bias")] = torch.ones(32)
    elif what == "LoHa":
        tensors = {"lora_unet_mid_block.hada_w1_a": torch.ones(2, 2), "lora_unet_mid_block.hada_w1_b": torch.ones(2, 2)}
    elif what == "metadata that is no JSON":
        metadata = {"lora_adapter_metadata": "{"}
    elif what == "deep metadata":
        metadata = {"lora_adapter_metadata": "[" * 100_000}
    elif what == "an alpha that is none":
        metadata = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": "many"})}
    elif what == "PiSSA":
        metadata = {"lora_adapter_metadata": json.dumps({"unet.init_lora_weights": "pissa"})}
    elif what == "a pattern":
        metadata = {"lora_adapter_metadata": json.dumps({"unet.alpha_pattern": {"(a+)+b": 2}})}
    return tensors, metadata


_DAMAGES = {
    "a key of another model": "text_encoder_2.text_model",
    "no layer": "down_blocks.7",
    "half a pair": "to_q.lora_A",
    "DoRA": "magnitude",
    "another width": r"must fit.*to_q.lora_A.weight is \[4, 31\]",
    "another rank": r"must fit.*\[5, 32\]",
    "integers": "floating-point",
    "a bias": "lora_B.bias",
    "LoHa": "hada_w1_a",
    "metadata that is no JSON": "plain JSON",
    "deep metadata": "plain JSON",
    "an alpha that is none": "finite number",
    "PiSSA": "own weights",
    "a pattern": "name modules",
}


@pytest.mark.parametrize("what", _DAMAGES)
def test_what_does_not_fit_is_refused_by_its_key(
    what: str, tiny_checkpoint: Path, diffusers_lora: Path, tmp_path: Path
) -> None:
    tensors, metadata = _damaged(load_file(diffusers_lora), what)
    save_file(tensors, tmp_path / "lora.safetensors", metadata)
    with pytest.raises(CheckpointError, match=_DAMAGES[what]):
        open_checkpoint(tiny_checkpoint, changes=Changes((LoraFile(tmp_path / "lora.safetensors"),)))


def test_damaged_files_and_values_are_refused(tiny_checkpoint: Path, diffusers_lora: Path, tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    for content in (b"", b"not a LoRA at all", diffusers_lora.read_bytes()[:-1], b"\xff" * 64):
        file.write_bytes(content)
        with pytest.raises(CheckpointError):
            open_checkpoint(tiny_checkpoint, changes=Changes((LoraFile(file),)))
    with pytest.raises(CheckpointError):
        open_checkpoint(tiny_checkpoint, changes=Changes((LoraFile(tmp_path / "nowhere.safetensors"),)))
    tensors = load_file(diffusers_lora)
    tensors[f"unet.{BLOCK}.to_q.lora_A.weight"][0, 0] = float("nan")
    save_file(tensors, file)
    opened = open_checkpoint(tiny_checkpoint, changes=Changes((LoraFile(file),)))
    assert "to_q.lora_A" in str(opened.unreadable["unet"])
    with pytest.raises(CheckpointError, match="NaN"):
        load_model(opened, "unet")


def test_file_and_scale_are_read(tmp_path: Path) -> None:
    assert LoraFile.parse("a/b.safetensors") == LoraFile(Path("a/b.safetensors"))
    assert LoraFile.parse("a/b.safetensors:0.5") == LoraFile(Path("a/b.safetensors"), 0.5)
    assert LoraFile.parse("a/b.safetensors:-1e-1") == LoraFile(Path("a/b.safetensors"), -0.1)
    odd = tmp_path / "name:2"
    odd.write_bytes(b"")
    assert LoraFile.parse(str(odd)) == LoraFile(odd)
    assert LoraFile.parse(f"{odd}:3") == LoraFile(odd, 3.0)
    with pytest.raises(UsageError, match="finite"):
        LoraFile.parse("a:nan")
    assert LoraFile.from_json(json.loads(json.dumps(LoraFile(odd, 0.1).to_json()))) == LoraFile(odd, 0.1)


def _invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_from_the_command_line_to_a_validated_bundle(
    tmp_path: Path, diffusers_lora: Path, tiny_checkpoint: Path
) -> None:
    """An export with another LoRA, or none, never takes a component from the cache; validation needs the same one."""
    lora, cache = f"{diffusers_lora}:0.5", tmp_path / "cache"

    def export(name: str, *more: object) -> dict[str, Any]:
        out = tmp_path / name
        options = ("--target", "onnx", "-o", out, "--cache-dir", cache, "--json")
        with exports_in_this_process():
            result = _invoke("export", tiny_checkpoint, *options, *more)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    plain = export("plain", "--components", "unet")
    fused = export("fused", "--lora", lora)
    assert plain["reused"] == fused["reused"] == []
    assert export("again", "--lora", lora)["reused"] == list(fused["manifest"]["components"])
    assert export("other", "--lora", f"{diffusers_lora}:0.4", "--components", "unet")["reused"] == []
    source = fused["manifest"]["source"]
    assert [(item["name"], item["scale"]) for item in source["loras"]] == [(diffusers_lora.name, 0.5)]
    assert source["content_hash"] != plain["manifest"]["source"]["content_hash"]
    assert "loras" not in plain["manifest"]["source"]
    assert f"LoRA `{diffusers_lora.name}` at scale 0.5" in (tmp_path / "fused" / "README.md").read_text("utf-8")

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n", "utf-8")
    sizes = ("--prompts", prompts, "--steps", "2", "--max-samples", "2", "--no-cache", "--json")
    right = _invoke("validate", tmp_path / "fused", "--reference", tiny_checkpoint, "--lora", lora, *sizes)
    assert right.exit_code == 0, right.output
    assert json.loads(right.stdout)["complete"]
    for options in ([], ["--lora", diffusers_lora]):
        wrong = _invoke("validate", tmp_path / "fused", "--reference", tiny_checkpoint, *options, *sizes)
        assert isinstance(wrong.exception, CheckpointError)
        assert f"--lora {diffusers_lora.name}:0.5" in str(wrong.exception)

    from PIL import Image

    asked = ("--prompt", "a red circle", "--steps", "2", "-o")
    for file, source_of, more in (
        ("fused.png", tmp_path / "fused", ()),
        ("torch.png", tiny_checkpoint, ("--lora", lora)),
        ("plain.png", tiny_checkpoint, ()),
    ):
        assert _invoke("generate", source_of, *asked, tmp_path / file, *more).exit_code == 0
    pictures = [np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("fused", "torch", "plain")]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    assert np.abs(pictures[1] - pictures[2]).max() > 1
    inspected = json.loads(_invoke("inspect", tiny_checkpoint, "--lora", lora, "--json").stdout)
    assert inspected["loras"] == source["loras"]
    assert inspected["content_hash"] == source["content_hash"]
    refused = _invoke("generate", tmp_path / "fused", "--lora", lora, *asked, tmp_path / "no.png")
    assert "--runtime torch" in str(refused.exception)


def test_an_alpha_may_be_a_whole_number(tiny_checkpoint: Path, diffusers_lora: Path, tmp_path: Path) -> None:
    tensors = _kohya(load_file(diffusers_lora))
    whole = {name: value.long() if name.endswith(".alpha") else value for name, value in tensors.items()}
    factors = []
    for stored in (tensors, whole):
        save_file(stored, tmp_path / "kohya.safetensors")
        opened = open_checkpoint(tiny_checkpoint, changes=Changes((LoraFile(tmp_path / "kohya.safetensors"),)))
        factors.append([layer.factor for layer in opened.loras[0].layers])
    assert factors[0] == factors[1]


def test_weights_stay_finite(tiny_checkpoint: Path, diffusers_lora: Path, tmp_path: Path) -> None:
    """Each change is finite, their sum is not."""
    name = f"{BLOCK}.to_q"
    out, width = open_checkpoint(tiny_checkpoint).components["unet"].tensors[f"{name}.weight"].shape
    down, up = torch.zeros(1, width), torch.zeros(out, 1)
    down[0, 0], up[0, 0] = 2e19, 1e19
    save_file({f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}, tmp_path / "large.safetensors")
    file = LoraFile(tmp_path / "large.safetensors")
    load_model(open_checkpoint(tiny_checkpoint, changes=Changes((file,))), "unet")
    with pytest.raises(CheckpointError, match=rf"stay finite.*{name}"):
        load_model(open_checkpoint(tiny_checkpoint, changes=Changes((file, file))), "unet")


def test_a_bundle_takes_as_many_as_its_manifest(tiny_checkpoint: Path, diffusers_lora: Path) -> None:
    with pytest.raises(UsageError, match="at most 64"):
        open_checkpoint(tiny_checkpoint, changes=Changes((LoraFile(diffusers_lora),) * 65))


def test_the_advice_reproduces_the_scale(tiny_checkpoint: Path, diffusers_lora: Path, tmp_path: Path) -> None:
    """What a user is told to give is what the bundle was exported with, to the last digit and under any file name."""
    opened = open_checkpoint(tiny_checkpoint, changes=Changes((LoraFile(diffusers_lora, 0.12345678),)))
    source = {"content_hash": opened.content_hash, "loras": [lora.to_json() for lora in opened.loras]}
    bundle: Any = SimpleNamespace(source=source, source_hash=opened.content_hash, manifest={})
    with pytest.raises(CheckpointError) as caught:
        resolve_reference(bundle, tiny_checkpoint, Changes((LoraFile(diffusers_lora, 0.123457),)))
    assert f"--lora {diffusers_lora.name}:0.12345678," in str(caught.value)
    copied = Path(shutil.copy(diffusers_lora, tmp_path / "copy.safetensors"))
    again = resolve_reference(bundle, tiny_checkpoint, Changes((LoraFile(copied, 0.12345678),)))
    assert again.content_hash == source["content_hash"]
    source["loras"] = []
    with pytest.raises(CheckpointError, match="Leave --lora out"):
        resolve_reference(bundle, tiny_checkpoint, Changes((LoraFile(diffusers_lora, 0.5),)))
