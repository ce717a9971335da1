"""The mobile UNet: with every rule switched off it is Diffusers' UNet; each rule does what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from sdmobile.models.attention import AttnProcessor, attention
from sdmobile.models.configurations import MOBILE_DIFFUSION, MOBILE_DIFFUSION_LITE, STABLE_DIFFUSION_15
from sdmobile.models.unet import MobileUNet2DConditionModel, attention_layers, set_relu_attention

SMALL: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": (1, 2),
    "transformer_layers_per_block": (0, 2),
    "up_transformer_layers_per_block": (0, 1),
    "mid_transformer_layers": 1,
    "self_attention": (False, True),
    "separable": (False, True),
    "cross_attention_dim": 12,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}


def _unet(**changes: Any) -> Any:
    torch.manual_seed(0)
    return MobileUNet2DConditionModel(**{**SMALL, **changes}).eval()


def _inputs(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(batch, 4, 8, 8, generator=generator),
        torch.tensor([7, 400])[:batch],
        torch.randn(batch, 5, 12, generator=generator),
    )


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (STABLE_DIFFUSION_15, 859_520_964),  # as published
        (MOBILE_DIFFUSION, 387_099_720),  # of the reconstruction; the paper says 386 M
        (MOBILE_DIFFUSION_LITE, 258_794_312),  # 257 M
    ],
    ids=["sd15", "mobile-diffusion", "mobile-diffusion-lite"],
)
def test_parameters_of_the_full_size(config: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        unet: Any = MobileUNet2DConditionModel(**config)
    assert sum(parameter.numel() for parameter in unet.parameters()) == parameters


def test_without_the_rules_it_is_the_unet_of_diffusers() -> None:
    """The same names and shapes at full size; the same numbers, bit for bit, at a small one."""
    with torch.device("meta"):
        ours: Any = MobileUNet2DConditionModel(**STABLE_DIFFUSION_15)
        theirs: Any = UNet2DConditionModel(cross_attention_dim=768)
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]

    small: dict[str, Any] = {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 12, "norm_num_groups": 8}
    torch.manual_seed(0)
    theirs = UNet2DConditionModel(sample_size=8, attention_head_dim=8, **small).eval()
    heads = {"attention_head_dim": (4, 8, 8, 8), "sample_size": 8}
    ours = MobileUNet2DConditionModel(**{**STABLE_DIFFUSION_15, **small, **heads}).eval()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        assert torch.equal(ours(*_inputs()).sample, theirs(*_inputs()).sample)


def test_a_residual_block_is_separable_where_the_level_is() -> None:
    convolutions = {name for name, module in _unet().named_modules() if getattr(module, "groups", 1) > 1}
    separable = {name for name in convolutions if name.endswith("depthwise")}
    assert separable == convolutions
    assert {name.split(".resnets")[0] for name in separable} == {"down_blocks.1", "mid_block", "up_blocks.0"}
    assert len(separable) == 2 * (2 + 2 + 3)


def test_one_residual_block_needs_fewer_skips() -> None:
    unet = _unet()
    assert [len(block.resnets) for block in unet.down_blocks] == [1, 2]
    assert [len(block.resnets) for block in unet.up_blocks] == [3, 2]
    transformers = [[len(t.transformer_blocks) for t in block.attentions] for block in unet.up_blocks]
    assert transformers == [[1, 1, 1], []]


def test_self_attention_only_where_it_is_asked_for() -> None:
    unet = _unet(transformer_layers_per_block=(1, 1), up_transformer_layers_per_block=None)
    names = attention_layers(unet)
    assert {name.split(".")[1] for name in names if name.startswith("down") and name.endswith("attn1")} == {"1"}
    assert {name.split(".")[1] for name in names if name.startswith("down") and name.endswith("attn2")} == {"0", "1"}


def test_keys_are_the_values_of_self_attention() -> None:
    layers = attention_layers(_unet())
    assert all((layer.to_v is None) == name.endswith("attn1") for name, layer in layers.items())


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("normaliser", ["softmax", "length", "none"])
def test_attention_by_its_equation(normaliser: str, share: bool) -> None:
    torch.manual_seed(0)
    layer: Any = attention(12, 4, None if share else 7, share, normaliser).double().eval()
    x, context = torch.randn(2, 5, 12).double(), torch.randn(2, 6, 7).double()
    seen = x if share else context
    with torch.no_grad():
        given = layer(x) if share else layer(x, encoder_hidden_states=context)
    weights = {name: value.numpy() for name, value in layer.state_dict().items()}
    q, k = x.numpy() @ weights["to_q.weight"].T, seen.numpy() @ weights["to_k.weight"].T
    v = k if share else seen.numpy() @ weights["to_v.weight"].T
    heads = []
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        scores = q[..., part] @ k[..., part].transpose(0, 2, 1) / 2.0
        mixed = np.maximum(scores, 0) / (scores.shape[-1] if normaliser == "length" else 1)
        if normaliser == "softmax":
            mixed = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        heads.append(mixed @ v[..., part])
    wanted = np.concatenate(heads, -1) @ weights["to_out.0.weight"].T + weights["to_out.0.bias"]
    np.testing.assert_allclose(given.numpy(), wanted, rtol=1e-10, atol=1e-12)


def test_relu_attention_is_set_and_declared() -> None:
    unet = _unet()
    set_relu_attention(unet, {"self": "length"})
    kinds = {
        (name[-5:], layer.processor.normaliser)
        for name, layer in attention_layers(unet).items()
        if isinstance(layer.processor, AttnProcessor)
    }
    assert kinds == {("attn1", "length"), ("attn2", "softmax")}
    declared: Any = MobileUNet2DConditionModel.from_config(unet.config)
    declared.load_state_dict(unet.state_dict())
    with torch.no_grad():
        assert torch.equal(declared.eval()(*_inputs()).sample, unet(*_inputs()).sample)


def test_residuals_of_adapters_are_added() -> None:
    """A ControlNet's go to every kept feature map and the middle, a plugin's to the end of every level."""
    unet = _unet()
    x, time, text = _inputs()
    maps = [torch.zeros(2, *shape) for shape in [(16, 8, 8), (16, 8, 8), (16, 4, 4), (32, 4, 4), (32, 4, 4)]]
    levels = [torch.zeros(2, 16, 8, 8), torch.zeros(2, 32, 4, 4)]
    with torch.no_grad():
        plain = unet(x, time, text).sample
        control = unet(x, time, text, down_block_additional_residuals=maps, mid_block_additional_residual=maps[-1])
        plugin = unet(x, time, text, down_intrablock_additional_residuals=levels)
        assert torch.equal(control.sample, plain)
        assert torch.equal(plugin.sample, plain)
        for index in range(len(maps)):
            more = [torch.ones_like(m) if place == index else m for place, m in enumerate(maps)]
            assert not torch.allclose(unet(x, time, text, down_block_additional_residuals=more).sample, plain)
        for index in range(len(levels)):
            more = [torch.ones_like(m) if place == index else m for place, m in enumerate(levels)]
            assert not torch.allclose(unet(x, time, text, down_intrablock_additional_residuals=more).sample, plain)


def test_saved_and_loaded_it_is_the_same(tmp_path: Any) -> None:
    unet = _unet(relu_attention={"self": "length", "cross": "none"}, distilled_guidance_scale=3.0)
    unet.save_pretrained(tmp_path)
    loaded: Any = MobileUNet2DConditionModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(*_inputs()).sample, unet(*_inputs()).sample)
    assert loaded.config.distilled_guidance_scale == 3.0
