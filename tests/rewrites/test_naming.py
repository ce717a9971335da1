"""Names say where a node comes from."""

from __future__ import annotations

import torch
from torch import nn

from sdmobile.rewrites.engine import rewrite
from sdmobile.rewrites.group_norm import GroupNormInstanceNorm
from sdmobile.rewrites.naming import name_by_module


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4)) for _ in range(2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def test_every_operator_is_named_after_its_module_and_the_function_stays() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 4, 3, 3)
    program = rewrite(torch.export.export(Nested(), (x,)), [GroupNormInstanceNorm()]).program
    named = name_by_module(program)
    names = [node.name for node in named.graph.nodes if node.op == "call_function"]
    assert "blocks_0_0_conv2d" in names
    assert "blocks_1_1_instance_norm" in names
    assert {"blocks_0_1_reshape", "blocks_0_1_reshape_1"} <= set(names)
    assert names[-1].startswith("add")
    assert len(set(names)) == len(names)
    assert torch.equal(named.module()(x), program.module()(x))
    assert [spec.arg.name for spec in named.graph_signature.output_specs] == [names[-1]]
    named.run_decompositions({})
