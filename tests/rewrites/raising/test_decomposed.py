"""A Diffusers UNet that was decomposed to primitive operations gets its operators back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.export import ExportedProgram

from sdmobile.basics.metrics import psnr
from sdmobile.rewrites.engine import rewrite
from sdmobile.rewrites.program import run
from sdmobile.rewrites.raising.activation import RaiseGelu, RaiseSilu
from sdmobile.rewrites.raising.norm import RaiseGroupNorm, RaiseLayerNorm

_aten = torch.ops.aten
OPERATORS = (_aten.group_norm.default, _aten.layer_norm.default, _aten.gelu.default, _aten.silu.default)
PRIMITIVES = [_aten.native_group_norm, _aten.native_layer_norm, _aten.gelu, _aten.silu]


class Denoiser(nn.Module):
    """The smallest UNet with every kind of block."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            cross_attention_dim=16,
            attention_head_dim=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        return self.unet(x, timestep, context, return_dict=False)[0]


@pytest.fixture(scope="module")
def denoiser() -> tuple[ExportedProgram, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    module = Denoiser().eval().requires_grad_(False)
    for name, parameter in module.named_parameters():
        if "norm" in name:  # γ = 1 and β = 0 would not show an affine step that got lost
            parameter += 0.3 * torch.randn_like(parameter)
    inputs = (torch.randn(2, 4, 8, 8), torch.tensor([500.0, 20.0]), torch.randn(2, 5, 16))
    return torch.export.export(module, inputs, strict=False), inputs


def counts(program: ExportedProgram) -> Counter[object]:
    return Counter(node.target for node in program.graph.nodes if node.target in OPERATORS)


def partly(program: ExportedProgram) -> ExportedProgram:
    """torch.export's default: native norms with their statistics, and sigmoids."""
    return program.run_decompositions()


def wholly(program: ExportedProgram) -> ExportedProgram:
    """var_mean, rsqrt and as_strided, error functions, sigmoids."""
    return program.run_decompositions({**core_aten_decompositions(), **get_decompositions(PRIMITIVES)})


@pytest.mark.parametrize("decompose", [partly, wholly])
def test_operators_come_back(
    denoiser: tuple[ExportedProgram, tuple[Tensor, ...]], decompose: Callable[[ExportedProgram], ExportedProgram]
) -> None:
    program, inputs = denoiser
    decomposed = decompose(program)
    assert counts(decomposed).total() < counts(program).total()
    rewritten = rewrite(decomposed, [RaiseGroupNorm(), RaiseLayerNorm(), RaiseSilu(), RaiseGelu()])
    assert counts(rewritten.program) == counts(program)
    assert not [record for record in rewritten.records if record.outcome == "refused"]
    assert psnr(run(program, inputs)[0].numpy(), run(rewritten.program, inputs)[0].numpy()) > 120


def test_the_program_as_captured_has_nothing_to_raise(denoiser: tuple[ExportedProgram, tuple[Tensor, ...]]) -> None:
    program, _ = denoiser
    rewritten = rewrite(program, [RaiseGroupNorm(), RaiseLayerNorm(), RaiseSilu(), RaiseGelu()])
    assert {record.outcome for record in rewritten.records} == {"unmatched"}
