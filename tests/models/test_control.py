"""The ControlNet and the plugin of the mobile UNet: shapes, the copy, and that nothing changes before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from sdmobile.models.configurations import STABLE_DIFFUSION_15
from sdmobile.models.controlnet import MobileControlNetModel
from sdmobile.models.plugin import MobileControlPlugin
from sdmobile.models.unet import MobileUNet2DConditionModel
from sdmobile.training.mobile.config import unet_config
from tests.models.test_unet import SMALL as PLAIN

SMALL: dict[str, Any] = {**PLAIN, "relu_attention": {"self": "length"}}


def _unet(**changes: Any) -> Any:
    torch.manual_seed(0)
    return MobileUNet2DConditionModel(**{**SMALL, **changes}).eval().requires_grad_(False)


def _inputs(pixels: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(2, 4, 8, 8, generator=generator),
        torch.tensor([7, 400]),
        torch.randn(2, 5, 12, generator=generator),
        torch.rand(2, 3, pixels, pixels, generator=generator),
    )


@pytest.mark.parametrize("middle", [1, None])
def test_a_fresh_controlnet_changes_nothing_bit_for_bit(middle: int | None) -> None:
    unet = _unet(mid_transformer_layers=middle)
    net: Any = MobileControlNetModel.from_unet(unet, (16, 32)).eval()
    x, time, text, picture = _inputs()
    with torch.no_grad():
        down, mid = net(x, time, text, picture, return_dict=False)
        plain = unet(x, time, text).sample
        assert torch.equal(unet(x, time, text, down, mid).sample, plain)
        for number in range(len(down) + 1):  # each residual is used once training moves it
            changed = [one + (index == number) for index, one in enumerate((*down, mid))]
            assert not torch.allclose(unet(x, time, text, changed[:-1], changed[-1]).sample, plain)


def test_the_copy_is_the_way_down_of_the_unet() -> None:
    """With identities for the zero convolutions, the residuals are the feature maps that the UNet keeps."""
    unet = _unet()
    net: Any = MobileControlNetModel.from_unet(unet, (16, 32)).eval()
    names = {name for name in unet.state_dict() if name.startswith(("conv_in", "time_", "down_blocks", "mid_block"))}
    assert all(torch.equal(net.state_dict()[name], unet.state_dict()[name]) for name in names)
    for zero in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        torch.nn.init.dirac_(zero.weight)
    kept: list[torch.Tensor] = []
    for block in unet.up_blocks[:1]:
        block.register_forward_pre_hook(lambda _block, given: kept.extend([*given[1], given[0]]))
    x, time, text, picture = _inputs()
    with torch.no_grad():
        unet(x, time, text)
        down, mid = net(x, time, text, picture, conditioning_scale=0.5, return_dict=False)
    assert len(kept) == len(down) + 1
    for wanted, given in zip(kept, (*down, mid), strict=True):
        assert torch.equal(given, wanted * 0.5)


def test_without_the_rules_it_is_the_controlnet_of_diffusers() -> None:
    small: dict[str, Any] = {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 12, "norm_num_groups": 8}
    torch.manual_seed(0)
    theirs: Any = ControlNetModel.from_unet(UNet2DConditionModel(sample_size=8, attention_head_dim=8, **small)).eval()
    heads = {"attention_head_dim": (4, 8, 8, 8), "sample_size": 8}
    unet: Any = MobileUNet2DConditionModel(**{**STABLE_DIFFUSION_15, **small, **heads})
    ours: Any = MobileControlNetModel.from_unet(unet).eval()
    for parameter in theirs.parameters():
        torch.nn.init.uniform_(parameter, -0.05, 0.05)
    ours.load_state_dict(theirs.state_dict())
    assert ours.conditioning_stride == 8
    inputs = _inputs(64)
    with torch.no_grad():
        given, wanted = ours(*inputs), theirs(*inputs)
    for one, other in zip(given.down_block_res_samples, wanted.down_block_res_samples, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(given.mid_block_res_sample, wanted.mid_block_res_sample)


def test_a_fresh_plugin_changes_nothing_bit_for_bit() -> None:
    unet = _unet()
    torch.manual_seed(2)
    plugin: Any = MobileControlPlugin(conditioning_stride=2, block_out_channels=(16, 32), channels=(16, 24)).eval()
    x, time, text, picture = _inputs()
    with torch.no_grad():
        features = plugin(picture)
        plain = unet(x, time, text).sample
        assert [tuple(one.shape) for one in features] == [(2, 16, 8, 8), (2, 32, 4, 4)]
        assert torch.equal(unet(x, time, text, down_intrablock_additional_residuals=features).sample, plain)
        for out in plugin.conv_out:
            torch.nn.init.normal_(out.weight, std=0.1)
        features = plugin(picture)
        assert not torch.allclose(unet(x, time, text, down_intrablock_additional_residuals=features).sample, plain)
        other = plugin(picture.flip(-1))
        assert not torch.allclose(other[-1], features[-1])  # the picture is seen down to the last level


def test_the_plugin_is_light_at_the_size_of_shapes_64() -> None:
    widths = unet_config()["block_out_channels"]
    plugin: Any = MobileControlPlugin(conditioning_stride=4, block_out_channels=widths)
    assert 100_000 <= sum(parameter.numel() for parameter in plugin.parameters()) <= 300_000


@pytest.mark.parametrize(
    ("changes", "said"), [({"conditioning_stride": 6}, "power of two"), ({"channels": (8,)}, "1 levels")]
)
def test_a_plugin_that_fits_no_unet_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MobileControlPlugin(**changes)


def test_saved_and_loaded_they_are_the_same(tmp_path: Path) -> None:
    net: Any = MobileControlNetModel.from_unet(_unet(), (16, 32)).eval()
    plugin: Any = MobileControlPlugin(conditioning_stride=2, block_out_channels=(16, 32), channels=(16, 24)).eval()
    for name, model in (("net", net), ("plugin", plugin)):
        for parameter in model.parameters():
            torch.nn.init.uniform_(parameter, -0.1, 0.1)
        model.save_pretrained(tmp_path / name)
    inputs = _inputs()
    with torch.no_grad():
        loaded: Any = MobileControlNetModel.from_pretrained(tmp_path / "net")
        assert torch.equal(loaded.eval()(*inputs).mid_block_res_sample, net(*inputs).mid_block_res_sample)
        light: Any = MobileControlPlugin.from_pretrained(tmp_path / "plugin")
        assert torch.equal(light.eval()(inputs[3])[1], plugin(inputs[3])[1])
